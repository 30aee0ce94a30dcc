// A program under test whose answers depend on its point alone: what it reports was never timed, it is computed.
// It sleeps while it "runs", so that a kill finds it alive; some points do not compile, are wrong or crash.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if UNROLL == 13
#error "this point does not compile"
#endif

int main(int argc, char** argv) {
  int batch = 1, pause_us = 0;
  for (int i = 1; i < argc; ++i) {
    if (sscanf(argv[i], "--batch=%d", &batch) != 1) sscanf(argv[i], "--pause_us=%d", &pause_us);
  }
  const double place = (UNROLL - 6) * (UNROLL - 6) / 40.0 + log2(batch) * (TILE - 3) / 20.0 + LAYOUT * 0.1;
  const double latency_s = 1e-3 * exp(place);
  setvbuf(stdout, nullptr, _IOLBF, 0);
  puts("{\"ready\":{\"load_s\":0.001}}");
  for (char line[64]; fgets(line, sizeof line, stdin);) {
    int count = 0;
    if (!strcmp(line, "verify\n")) {
      printf("{\"check\":{\"errors\":{\"max_rel_error\":%d},\"tolerances\":{\"max_rel_error\":0.5}}}\n", TILE == 7);
    } else if (sscanf(line, "run %d", &count) == 1) {
      if (UNROLL == 11) abort();
      usleep(pause_us);
      printf("{\"samples\":{\"latency_s\":[");
      for (int i = 0; i < count; ++i) printf("%s%.9g", i ? "," : "", latency_s);
      puts("]}}");
    } else {
      return 0;
    }
  }
  return 0;
}
