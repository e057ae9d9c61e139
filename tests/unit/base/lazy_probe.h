// lazy_probe.h: what lazy_library_test calls. gh_probe_absent is nowhere.
#pragma once

struct ProbeTriple {
  long a, b, c;  // too large for registers
};

extern "C" {
double gh_probe_weigh(int a, int b, int c, int d, int e, int f, int g, int h, double i, double j, double k,
                      double l, double m, double n, double o, double p, double q);
ProbeTriple gh_probe_join(ProbeTriple triple, long add);
void gh_probe_absent();
}
