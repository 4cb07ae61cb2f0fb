// Groups of weights as sums of ternary planes, on the CPU.
//
// What is solved and in which order ties are settled is told in src/hardy/ops/trits.py, whose torch solver is the
// oracle: sums are added up in another order here, and everything that is decided is decided alike.
#pragma once

#include <cstdint>

namespace hardy {

enum class Start : int32_t { kSign = 0, kMagnitude = 1 };

struct TritProblem {
  int64_t groups, group_size;
  const double* lengths;  // (groups,): how many weights of each are no padding
  int planes;             // 1 to 3
  const Start* starts;
  int64_t start_count, iterations;
  double tolerance;
};

struct TritSolution {
  int8_t* trits;      // (planes, groups, group_size)
  float* scales;      // (planes, groups)
  int64_t stride;     // groups from one plane to the next, of both
  uint8_t* converged;  // (groups,)
};

// weights: (groups, group_size), finite.
void fit_trits(const float* weights, const TritProblem& problem, const TritSolution& solution, int threads);
void fit_trits(const double* weights, const TritProblem& problem, const TritSolution& solution, int threads);

}  // namespace hardy
