// Products of a map's pixels with the weights of a group: in the matrix unit of a processor that has
// one, or in PyTorch's own batch-reduce kernels.
#pragma once

#include <ATen/cpu/Utils.h>
#include <ATen/native/CPUBlas.h>

#include <type_traits>

#include "vectors.h"

#ifdef __AMX_BF16__
#include <immintrin.h>
#endif

namespace protuning {

constexpr int64_t PRODUCT_ROWS = 32;  // pixels of one product, which stays in the first-level cache

// The channels of a group that lie and are computed together: those of two vectors, or of one, or
// the whole group where vectors do not divide it: as in service/engines/packed.py.
inline int64_t panel_width(int64_t N) {
  return N % LANES ? N : N % (2 * LANES) ? LANES : 2 * LANES;
}

// How many rows of a 1x1 weight lie interleaved, as the product of two bfloat16 wants them.
template <typename S>
constexpr int64_t interleaved(int64_t N) {
  return std::is_same_v<S, BFloat16> && N % 2 == 0 ? 2 : 1;
}

// Pixels of a map in panels of channels: values from pixel to pixel, and from panel to panel.
template <typename S>
struct Pixels {
  const S* at;
  int64_t row, panel;
};

#ifdef __AMX_BF16__
// The matrix unit. Tiles 0 to 3 hold sums: of the upper pixels in 0 and 1, of the lower ones in 2 and
// 3. Tiles 4 and 5 hold pixels, 6 and 7 weights.
class Tiles {
 public:
  static bool available() {
    static const bool is = at::cpu::init_amx();
    return is;
  }

  ~Tiles() {
    if (rows_) _tile_release();
  }

  // C [rows, width] = A [rows, K] @ B, a panel of one vector or two.
  void multiply(int64_t rows, int64_t K, Pixels<BFloat16> A, const BFloat16* B, int64_t width,
                float* C) {
    configure(rows, width);
    if (width == LANES) run<1>(K, A, B, C);
    else run<2>(K, A, B, C);
  }

 private:
  struct alignas(LINE) Shapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };

  void configure(int64_t rows, int64_t width) {
    if (rows == rows_ && width == width_) return;
    rows_ = rows, width_ = width;
    const uint8_t upper = (rows + 1) / 2, lower = std::max<int64_t>(rows / 2, 1), pairs = width / 2;
    const uint8_t heights[] = {upper, upper, lower, lower, upper, lower, pairs, pairs};
    Shapes shapes;
    for (int tile = 0; tile < 8; ++tile) {
      shapes.rows[tile] = heights[tile];
      shapes.row_bytes[tile] = tile == 4 || tile == 5 ? 2 * width : 4 * LANES;
    }
    // To some compilers these instructions read no memory: what they read must be there by now.
    asm volatile("" ::"r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
  }

  template <int VECTORS>
  void run(int64_t K, Pixels<BFloat16> A, const BFloat16* B, float* C) const {
    constexpr int64_t width = VECTORS * LANES, pitch = 4 * width;
    const int64_t lower = min((rows_ + 1) / 2, rows_ - 1);  // a lone row is in both halves
    asm volatile("" ::: "memory");  // see configure
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < K; k += width, A.at += A.panel, B += width * width) {
      _tile_loadd(6, B, pitch);
      _tile_loadd(4, A.at, 2 * A.row);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (VECTORS == 2) {
        _tile_loadd(7, B + 2 * LANES, pitch);
        _tile_dpbf16ps(1, 4, 7);
      }
      _tile_loadd(5, A.at + lower * A.row, 2 * A.row);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (VECTORS == 2) {
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, C, pitch);
    _tile_stored(2, C + lower * width, pitch);
    if constexpr (VECTORS == 2) {
      _tile_stored(1, C + LANES, pitch);
      _tile_stored(3, C + lower * width + LANES, pitch);
    }
  }

  int64_t rows_ = 0, width_ = 0;
};
#endif

// The products of one thread.
template <typename S>
class Products {
 public:
  ~Products() { at::native::cpublas::brgemm_release(); }

  // How many channels of a pixel lie together, where the pixels are of N.
  static int64_t depth(int64_t N) { return is_tiled(N) ? panel_width(N) : N; }

  // C [rows, width] = A [rows, K] @ B, a panel of weights.
  void multiply(int64_t rows, int64_t K, Pixels<S> A, const S* B, int64_t width, float* C) {
#ifdef __AMX_BF16__
    if constexpr (is_half)
      if (is_tiled(K)) return tiles_.multiply(rows, K, A, B, width, C);
#endif
    if (is_half && K % 2) return multiply_odd(rows, K, A, B, width, C);
    at::native::cpublas::brgemm(
        rows, width, K, A.row, width, width, false, A.at, B, C, is_half);
  }

 private:
  static constexpr bool is_half = std::is_same_v<S, BFloat16>;

  static bool is_tiled([[maybe_unused]] int64_t K) {
#ifdef __AMX_BF16__
    return is_half && K % LANES == 0 && Tiles::available();
#else
    return false;
#endif
  }

  // No kernel takes bfloat16 of an odd depth.
  static void multiply_odd(int64_t rows, int64_t K, Pixels<S> A, const S* B, int64_t width, float* C) {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t n = 0; n < width; ++n) {
        float total = 0.f;
        for (int64_t k = 0; k < K; ++k)
          total += float(A.at[row * A.row + k]) * float(B[k * width + n]);
        C[row * width + n] = total;
      }
  }

#ifdef __AMX_BF16__
  Tiles tiles_;
#endif
};

}  // namespace protuning
