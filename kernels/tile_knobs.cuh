// The knobs of a tiled matrix product and what they are where nobody sets them: the textbook's tile of 16 x 16 threads
// with one sum each. optimizer/targets/cuda/operands.py (TILE) knows the same of those that shape a launch.
#pragma once

#ifndef BLOCK_M
#define BLOCK_M 16
#endif
#ifndef BLOCK_N
#define BLOCK_N 16
#endif
#ifndef BLOCK_K
#define BLOCK_K 16
#endif
#ifndef THREAD_M
#define THREAD_M 1  // sums of a thread: THREAD_M x THREAD_N; without tensor cores
#endif
#ifndef THREAD_N
#define THREAD_N 1
#endif
#ifndef VECTOR
#define VECTOR 1  // elements of a global load
#endif
#ifndef STAGES
#define STAGES 1  // tiles in shared memory at a time; from 2 on copied asynchronously
#endif
#ifndef UNROLL
#define UNROLL 1  // of the loop over the terms of a tile
#endif
#ifndef PAD
#define PAD 0  // elements between lines of shared memory
#endif
#ifndef PRECISION
#define PRECISION 0  // of the operands: 0 float, 1 f16, 2 bf16
#endif
#ifndef TENSOR
#define TENSOR 0  // tensor cores; f16 and bf16
#endif
#ifndef WARP_M
#define WARP_M 16  // sums of a warp: WARP_M x WARP_N; with tensor cores
#endif
#ifndef WARP_N
#define WARP_N 8
#endif
#ifndef FRAGMENTS
#define FRAGMENTS 0  // how a warp reads its operands: 0 element by element, 1 with ldmatrix; with tensor cores
#endif
