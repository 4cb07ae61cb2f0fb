/* Reads memory and nothing else: the bandwidth that benchmarks/trit_kernels.py compares with. */
#include <stddef.h>
#include <stdint.h>

uint64_t read_all(const uint64_t *words, size_t count) {
    uint64_t sums[32] = {0}, total = 0;
    for (size_t i = 0; i + 32 <= count; i += 32)
        for (int j = 0; j < 32; ++j) sums[j] += words[i + j];
    for (int j = 0; j < 32; ++j) total += sums[j];
    return total;
}
