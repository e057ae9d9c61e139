#include "tests/unit/base/lazy_probe.h"

double gh_probe_weigh(int a, int b, int c, int d, int e, int f, int g, int h, double i, double j, double k,
                      double l, double m, double n, double o, double p, double q) {
  return a + b + c + d + e + f + g + h + i + j + k + l + m + n + o + p + q;
}

ProbeTriple gh_probe_join(ProbeTriple triple, long add) {
  return {triple.a + add, triple.b + add, triple.c + add};
}
