// Pieces of PTX that kernels on tensor cores share: products of 16 x 16 by 16 x 8, how they are loaded, and copies that a block does not wait for.
#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace ponder {
namespace {

constexpr float LOG2E = 1.4426950408889634f;

/// c += a b for a [16, 16], b [16, 8] in half precision, c [16, 8] in float32.
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void load_transposed(unsigned (&r)[4], const __half* from) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(from));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

__device__ inline void load(unsigned (&r)[4], const __half* from) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(from));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address));
}

/// Starts to copy 16 bytes into shared memory, or to clear them.
__device__ inline void start_copy(__half* to, const __half* from, bool clear) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(from), "r"(clear ? 0 : 16) : "memory");
}
__device__ inline void end_of_chunk() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
/// Waits until this thread's copies have arrived, but for those of the last `LEFT` chunks.
template <int LEFT>
__device__ inline void await_chunk() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(LEFT) : "memory");
}

__device__ inline float max_over_quad(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float sum_over_quad(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

}  // namespace
}  // namespace ponder
