// The native CPU kernels, as handlers of XLA's foreign function interface.
//
// Every kernel is compiled for three instruction sets (the .inc files are included once per set) and chosen at run time.
// Index arrays are checked before they are used, chunk by chunk while they are brought into the cache anyway.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SLIF_X86 1
#include <immintrin.h>
#endif
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
#define AI static inline __attribute__((always_inline))
#define SLIF_VEC(B)                                                                     \
  template <> struct Vec<B> {                                                           \
    typedef float f __attribute__((vector_size(B), aligned(4), may_alias));             \
    typedef int32_t i __attribute__((vector_size(B), aligned(4), may_alias));           \
    typedef uint32_t u __attribute__((vector_size(B), aligned(4), may_alias));          \
    typedef uint16_t h __attribute__((vector_size(B / 2), aligned(2), may_alias));      \
  };

namespace {
constexpr int64_t PFD = 16;    // edges between the prefetch of a row and its use
constexpr int EB = 16;         // edges of an attention block
constexpr int PANEL = 48;      // keys of a packed panel: a multiple of every micro-tile's width
constexpr int TILE = 480;      // rows or keys whose thresholds are held at once: a multiple of PANEL
template <int B> struct Vec;   // B bytes
SLIF_VEC(64) SLIF_VEC(32) SLIF_VEC(16)
struct Bf16 { uint16_t bits; };

struct SpmmArgs {
  const int32_t *ip, *ci, *perm;
  const float* v;
  const void* x;
  void* y;
  int64_t n, s, e, d;  // rows of y, rows of x, edge slots, columns
};
struct SddmmArgs {
  const int32_t *ip, *ci;
  const void *y, *x;
  float* out;
  int64_t n, s, d;
};
struct AttentionArgs {
  const int32_t *ip, *ci, *rel;
  const float *w, *q, *x, *rv;
  float *values, *lse;
  int64_t n, s, e, k, d;
  float scale;
};
struct Share { float p, c; };  // of an edge: its weight, and the scaled cotangent of its logit
struct BackwardArgs {
  const int32_t *t_ip, *t_ci, *t_perm;
  const float *g, *gl;
  float *dq, *dx, *dw;
  Share* shares;
};
struct TopkArgs {
  const float *q, *packed;
  const int32_t *self_offset, *ex_ip, *ex;
  float* values;
  int32_t* indices;
  int64_t m, n, d, k;
};

#include "share.inc"

#define SLIF_ENTRIES(B)                                                                                              \
  bool spmm(const SpmmArgs& a, int64_t r0, int64_t r1) { return spmm_rows<B, float>(a, r0, r1); }                    \
  bool spmm16(const SpmmArgs& a, int64_t r0, int64_t r1) { return spmm_rows<B, Bf16>(a, r0, r1); }                   \
  bool sddmm(const SddmmArgs& a, int64_t r0, int64_t r1) { return sddmm_rows<B, float>(a, r0, r1); }                 \
  bool sddmm16(const SddmmArgs& a, int64_t r0, int64_t r1) { return sddmm_rows<B, Bf16>(a, r0, r1); }                \
  bool gradients(const SpmmArgs& a, const float* x, float* dw, int64_t s0, int64_t s1) {                             \
    return gradients_rows<B>(a, x, dw, s0, s1);                                                                      \
  }                                                                                                                  \
  bool attention(const AttentionArgs& a, int64_t r0, int64_t r1) { return attention_rows<B>(a, r0, r1); }            \
  bool backward1(const AttentionArgs& a, const BackwardArgs& g, int64_t r0, int64_t r1) {                            \
    return backward_rows<B>(a, g, r0, r1);                                                                           \
  }                                                                                                                  \
  bool backward2(const AttentionArgs& a, const BackwardArgs& g, int64_t s0, int64_t s1, float* drv) {                \
    return backward_columns<B>(a, g, s0, s1, drv);                                                                   \
  }                                                                                                                  \
  void topk(const TopkArgs& a, int64_t r0, int64_t r1) { topk_rows<B>(a, r0, r1); }                                  \
  void topk_pair(const TopkArgs& a, int64_t r0, int64_t r1, int64_t j0, int64_t j1) {                                \
    topk_tile<B, true>(a, r0, r1, j0, j1);                                                                           \
  }                                                                                                                  \
  void topk_square(const TopkArgs& a, int64_t r0, int64_t r1) { topk_tile<B, false>(a, r0, r1, r0, r1); }

#if SLIF_X86
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
namespace avx512 {
#define MASK_GE(A, T_) ((uint32_t)_mm512_cmp_ps_mask((__m512)(A), (__m512)(T_), _CMP_GE_OQ))
#include "vectors.inc"
#include "spmm.inc"
#include "attention.inc"
#include "gradients.inc"
#include "topk.inc"
#undef MASK_GE
SLIF_ENTRIES(64)
}  // namespace avx512
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define MASK_GE(A, T_) ((uint32_t)_mm256_movemask_ps(_mm256_cmp_ps((__m256)(A), (__m256)(T_), _CMP_GE_OQ)))
#include "vectors.inc"
#include "spmm.inc"
#include "attention.inc"
#include "gradients.inc"
#include "topk.inc"
#undef MASK_GE
SLIF_ENTRIES(32)
}  // namespace avx2
#pragma GCC pop_options
#endif
namespace baseline {
AI uint32_t mask4(Vec<16>::i m) { return (m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8); }
#define MASK_GE(A, T_) mask4((A) >= (T_))
#include "vectors.inc"
#include "spmm.inc"
#include "attention.inc"
#include "gradients.inc"
#include "topk.inc"
#undef MASK_GE
SLIF_ENTRIES(16)
}  // namespace baseline

// 0 baseline, 1 AVX2, 2 AVX-512. SLIF_NATIVE_ISA can lower it, for tests.
int level() {
  static const int chosen = [] {
    int have = 0, want = 2;
#if SLIF_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) have = 1;
    if (have && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      have = 2;
#endif
    if (const char* name = std::getenv("SLIF_NATIVE_ISA")) {
      want = std::strcmp(name, "baseline") == 0 ? 0 : std::strcmp(name, "avx2") == 0 ? 1 : 2;
    }
    return std::min(have, want);
  }();
  return chosen;
}
#if SLIF_X86
#define PICK(F) (level() == 2 ? avx512::F : level() == 1 ? avx2::F : baseline::F)
#else
#define PICK(F) baseline::F
#endif

#include "handlers.inc"
}  // namespace

#define SLIF_HANDLER(NAME, FUNCTION) XLA_FFI_DEFINE_HANDLER_SYMBOL(NAME, FUNCTION, FUNCTION##Binding())
SLIF_HANDLER(slif_spmm, Spmm);
SLIF_HANDLER(slif_sddmm, Sddmm);
SLIF_HANDLER(slif_gradients, Gradients);
SLIF_HANDLER(slif_attention, Attention);
SLIF_HANDLER(slif_attention_backward, AttentionBackward);
SLIF_HANDLER(slif_topk, Topk);

extern "C" const char* slif_isa() {
  return level() == 2 ? "avx512" : level() == 1 ? "avx2" : "baseline";
}
