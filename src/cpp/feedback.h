// Rounding with error feedback, on the CPU: what rounding one input's weights does to the outputs, the inputs after it
// make up for.
//
// src/hardy/ops/feedback.py has the source and the torch reference; sums are added up in another order here.
#pragma once

#include <cstdint>

namespace hardy {

// The inputs of one group, each with the weights of all outputs.
struct FeedbackGroup {
  int64_t inputs, outputs;
  const float* columns;  // (inputs, outputs), corrected for all errors of earlier groups
  const float* factor;   // (inputs, inputs), the group's block of the upper triangular factor
  float* errors;         // (inputs, outputs), in units of the output
};

// Of each output the magnitudes that its weights may have, ascending, and the trits that each stands for.
struct TritLevels {
  int planes, count;
  const float* magnitudes;  // (count, outputs)
  const int8_t* trits;      // (planes, count, outputs)
};

// found: (planes, inputs, outputs). Half way between two magnitudes the smaller one is taken.
void round_to_trits(const FeedbackGroup& group, const TritLevels& levels, int8_t* found, int threads);

// Of each output its uniform grid: code c stands for (c - zero_point) * scale. A divisor is the scale, or infinity.
struct Grid {
  const float *scale, *divisor, *zero_point;  // (outputs,) each
  float lowest, highest;
};

// codes: (inputs, outputs).
void round_to_grid(const FeedbackGroup& group, const Grid& grid, float* codes, int threads);

}  // namespace hardy
