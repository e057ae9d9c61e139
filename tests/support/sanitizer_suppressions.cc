// sanitizer_suppressions.cc: part of every test program. What a sanitizer may overlook in libraries.
//
// UCX 1.13 forgets the small table of a shared-memory endpoint whose peer went before it could attach
// (uct_mm_ep). Its frames beyond the allocation are unknown, as it has no frame pointers.
#if defined(__SANITIZE_ADDRESS__)
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libuct.so\n"; }
#endif
