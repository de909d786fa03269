// Vectors of values, in float whatever the storage, and the memory that a thread keeps for them.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace protuning {

using at::BFloat16;
using std::min;

constexpr int64_t LANES = 16;  // of a vector
constexpr int64_t LINE = 64;   // bytes that a processor fetches at once
constexpr std::size_t HUGE_PAGE = 1 << 21;

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline Vec load(const BFloat16* p) {
  Halves halves;
  std::memcpy(&halves, p, sizeof halves);
  return (Vec)(__builtin_convertvector(halves, Bits) << 16);
}

inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

inline void store(BFloat16* p, Vec v) {
#ifdef __AVX512BF16__
  const __m256bh halves = _mm512_cvtneps_pbh((__m512)v);
#else
  const Bits bits = (Bits)v;  // to nearest, ties to even
  const Halves halves = __builtin_convertvector((bits + (0x7fff + ((bits >> 16) & 1))) >> 16, Halves);
#endif
  std::memcpy(p, &halves, sizeof halves);
}

// The first n of a vector's values: the others are zero, or stay as they are in memory.
template <typename S>
inline Vec load(const S* p, int64_t n) {
  if (n >= LANES) return load(p);
  S part[LANES] = {};
  std::memcpy(part, p, n * sizeof(S));
  return load(part);
}

template <typename S>
inline void store(S* p, Vec v, int64_t n) {
  if (n >= LANES) return store(p, v);
  S part[LANES];
  store(part, v);
  std::memcpy(p, part, n * sizeof(S));
}

inline float sum(Vec v) {
  float total = 0.f;
  for (int64_t i = 0; i < LANES; ++i) total += v[i];
  return total;
}

// Sums side by side: one alone would wait for each addition.
template <typename A, typename B>
inline float dot(const A* a, const B* b, int64_t n) {
  Vec totals[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES)
    for (int64_t j = 0; j < 4; ++j)
      totals[j] += load(a + i + j * LANES) * load(b + i + j * LANES);
  for (; i < n; i += LANES) totals[0] += load(a + i, n - i) * load(b + i, n - i);
  return sum(totals[0] + totals[1] + (totals[2] + totals[3]));
}

inline float silu(float x) { return x / (1.f + std::exp(-x)); }

// The activations in the order of service/engines/packed.py.
enum Activation { RELU, GELU, SILU, HARDSWISH };

template <int ACT>
inline Vec activate(Vec v) {
  if constexpr (ACT == RELU) {
    return v < 0.f ? Vec{} : v;  // NaN stays NaN
  } else {
    for (int64_t i = 0; i < LANES; ++i) {
      const float x = v[i];
      if (ACT == GELU) v[i] = 0.5f * x * (1.f + std::erf(x * 0.70710678118654752f));
      if (ACT == SILU) v[i] = silu(x);
      if (ACT == HARDSWISH) v[i] = x * min(std::max(x + 3.f, 0.f), 6.f) / 6.f;
    }
    return v;
  }
}

// Fetch values that will soon be asked for: their place in memory is nothing that a processor guesses.
template <typename S>
inline void fetch(const S* values, int64_t count) {
  for (int64_t i = 0; i < count; i += LINE / int64_t(sizeof(S))) __builtin_prefetch(values + i, 1);
}

// Uninitialised values, lost where more are asked for. Many of them lie in huge pages, which spare
// the processor most searches for a page.
template <typename T>
class Scratch {
 public:
  T* of(int64_t count) {
    if (count > count_) {
      const std::size_t wanted = count * sizeof(T), unit = wanted < HUGE_PAGE / 8 ? LINE : HUGE_PAGE;
      const std::size_t bytes = (wanted + unit - 1) / unit * unit;
      values_.reset(), count_ = 0;
      values_.reset(static_cast<T*>(std::aligned_alloc(unit, bytes)));
      TORCH_CHECK(values_, "There is no memory for ", bytes, " bytes of features.");
#ifdef MADV_HUGEPAGE
      if (unit == HUGE_PAGE) madvise(values_.get(), bytes, MADV_HUGEPAGE);  // a hint: it may fail
#endif
      count_ = count;
    }
    return values_.get();
  }

 private:
  struct Free {
    void operator()(T* values) const { std::free(values); }
  };
  std::unique_ptr<T, Free> values_;
  int64_t count_ = 0;
};

}  // namespace protuning
