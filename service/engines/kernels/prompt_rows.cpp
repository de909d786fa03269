// The task-specific part of a mixed batch on a CPU: prompts and heads, every row with its own weights.
//
// `prompt_rows_` blends the prompts of one site into a batch of features in place, Eq. (1): a row's
// map stays in the cache of one core from its first convolution to its last. `head_rows` multiplies
// each row's features with the head of its task. Weights are read where they lie in the bank, in the
// order that service/engines/packed.py gives them; nothing is gathered or copied first. The products
// run in PyTorch's own batch-reduce kernels (AMX or AVX-512 where there is one).
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/Utils.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#if defined(__AVX512BF16__) || defined(__AMX_BF16__)
#include <immintrin.h>
#endif

namespace {

using at::BFloat16;
using std::min;

constexpr int64_t LANES = 16;         // of a vector
constexpr int64_t TILE = 7;           // neighbouring outputs of a depthwise convolution: 7 divides most maps
constexpr int64_t GEMM_ROWS = 32;     // pixels of one product, whose result stays in the first-level cache
constexpr int64_t LINE = 64;          // bytes that a processor fetches at once
constexpr int64_t MAX_KERNEL = 15;    // as in adapters/manifest.py
constexpr int64_t FIELDS = 6;         // of a plan

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

// ---- vectors of values, in float whatever the storage ------------------------------------------

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

// ---- memory that a thread keeps from call to call ----------------------------------------------

template <typename T>
class Scratch {
 public:
  T* of(int64_t count) {
    if (int64_t(values_.size()) < count) values_.resize(count);
    return values_.data();
  }

 private:
  std::vector<T> values_;
};

// A map in blocks of LANES channels, each with a border of zeros as wide as the kernel reaches, and
// on the right up to a whole tile.
class Planes {
 public:
  Vec* of(int64_t blocks, int64_t height, int64_t width, int64_t border) {
    const int64_t pitch = (width + TILE - 1) / TILE * TILE + 2 * border;
    if (blocks != blocks_ || height != height_ || width != width_ || border != border_) {
      blocks_ = blocks, height_ = height, width_ = width, border_ = border, this->pitch = pitch;
      size = (height + 2 * border) * pitch;
      values_.assign(blocks * size, Vec{});
    }
    return values_.data();
  }

  int64_t pitch = 0;  // vectors of a row
  int64_t size = 0;   // vectors of a plane

 private:
  std::vector<Vec> values_;
  int64_t blocks_ = 0, height_ = 0, width_ = 0, border_ = 0;
};

// ---- one prompt block --------------------------------------------------------------------------

// The configuration of a block, and where it lies in the bank: none where the offset is negative.
struct Plan {
  int64_t offset, kernel, groups, squeezed, activation, class_token;
};

template <typename S>
struct Block {
  const S *conv1_weight, *conv1_bias, *conv2_weight, *conv2_bias, *reduce_weight, *reduce_bias,
      *expand_weight, *expand_bias, *conv3_weight, *conv3_bias;
};

// Every tensor of a block starts at a multiple of 32 values, see service/engines/folded.py.
int64_t aligned(int64_t values) { return (values + 31) / 32 * 32; }

int64_t block_values(const Plan& plan, int64_t C) {
  return 2 * aligned(C * (C / plan.groups)) + 4 * aligned(C) +
      aligned(C * plan.kernel * plan.kernel) + 2 * aligned(plan.squeezed * C) +
      aligned(plan.squeezed);
}

template <typename S>
Block<S> block_at(const S* values, const Plan& plan, int64_t C) {
  auto take = [&](int64_t count) {
    const S* tensor = values;
    values += aligned(count);
    return tensor;
  };
  Block<S> block;
  block.conv1_weight = take(C * (C / plan.groups)), block.conv1_bias = take(C);
  block.conv2_weight = take(C * plan.kernel * plan.kernel), block.conv2_bias = take(C);
  block.reduce_weight = take(plan.squeezed * C), block.reduce_bias = take(plan.squeezed);
  block.expand_weight = take(C * plan.squeezed), block.expand_bias = take(C);
  block.conv3_weight = take(C * (C / plan.groups)), block.conv3_bias = take(C);
  return block;
}

// How many rows of a 1x1 weight lie interleaved, as the product of two bfloat16 wants them.
template <typename S>
constexpr int64_t interleaved(int64_t N) {
  return std::is_same_v<S, BFloat16> && N % 2 == 0 ? 2 : 1;
}

// The channels of a group that lie and are computed together: those of two vectors, or of one, or
// the whole group where vectors do not divide it.
int64_t panel_width(int64_t N) { return N % LANES ? N : N % (2 * LANES) ? LANES : 2 * LANES; }

// A map [pixels, N] in panels of channels: values from pixel to pixel, and from panel to panel.
template <typename S>
struct Pixels {
  const S* at;
  int64_t row, panel;
};

// Fetch values that will soon be asked for: their place in memory is nothing that a processor guesses.
template <typename S>
inline void fetch(const S* values, int64_t count) {
  for (int64_t i = 0; i < count; i += LINE / int64_t(sizeof(S))) __builtin_prefetch(values + i, 1);
}

#ifdef __AMX_BF16__
// The matrix unit: tiles 0 to 3 hold sums, 4 and 5 pixels, 6 and 7 weights.
class Tiles {
 public:
  static bool available() {
    static const bool is = at::cpu::init_amx();
    return is;
  }

  ~Tiles() {
    if (rows_) _tile_release();
  }

  // C [rows, width] = A [rows, K] @ B, a panel one or two vectors wide.
  void multiply(int64_t rows, int64_t K, Pixels<BFloat16> A, const BFloat16* B, int64_t width, float* C) {
    configure(rows, width);
    if (width == LANES) multiply<1>(K, A, B, C);
    else multiply<2>(K, A, B, C);
  }

 private:
  struct alignas(64) Shapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };

  void configure(int64_t rows, int64_t depth) {
    if (rows == rows_ && depth == depth_) return;
    rows_ = rows, depth_ = depth;
    const uint8_t first = (rows + 1) / 2, second = std::max<int64_t>(rows / 2, 1);
    Shapes shapes;
    const uint8_t height[] = {first, first, second, second, first, second, uint8_t(depth / 2), uint8_t(depth / 2)};
    for (int tile = 0; tile < 8; ++tile) {
      shapes.rows[tile] = height[tile];
      shapes.row_bytes[tile] = tile == 4 || tile == 5 ? 2 * depth : 4 * LANES;
    }
    _tile_loadconfig(&shapes);
  }

  template <int VECTORS>
  void multiply(int64_t K, Pixels<BFloat16> A, const BFloat16* B, float* C) const {
    constexpr int64_t width = VECTORS * LANES, pitch = 4 * width;
    // A lone row is in both halves.
    const int64_t second = min((rows_ + 1) / 2, rows_ - 1), row = 2 * A.row;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < K; k += width, A.at += A.panel, B += width * width) {
      _tile_loadd(6, B, pitch);
      _tile_loadd(4, A.at, row);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (VECTORS == 2) {
        _tile_loadd(7, B + 2 * LANES, pitch);
        _tile_dpbf16ps(1, 4, 7);
      }
      _tile_loadd(5, A.at + second * A.row, row);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (VECTORS == 2) {
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, C, pitch);
    _tile_stored(2, C + second * width, pitch);
    if constexpr (VECTORS == 2) {
      _tile_stored(1, C + LANES, pitch);
      _tile_stored(3, C + second * width + LANES, pitch);
    }
  }

  int64_t rows_ = 0, depth_ = 0;
};
#endif

// Products of pixels with panels of weights, by one thread.
template <typename S>
class Products {
 public:
  ~Products() { at::native::cpublas::brgemm_release(); }

  // The channels of a panel of pixels.
  static int64_t depth(int64_t N) { return is_tiled(N) ? panel_width(N) : N; }

  // C [rows, columns] = A [rows, K] @ B, whose panels lie one after the other.
  void multiply(int64_t rows, int64_t K, Pixels<S> A, const S* B, int64_t columns, float* C) {
#ifdef __AMX_BF16__
    if constexpr (is_half)
      if (is_tiled(K)) return tiles_.multiply(rows, K, A, B, columns, C);
#endif
    multiply_panel(rows, K, A.at, A.row, B, columns, C);
  }

 private:
  static constexpr bool is_half = std::is_same_v<S, BFloat16>;

  static bool is_tiled(int64_t N) {
#ifdef __AMX_BF16__
    return is_half && N % LANES == 0 && Tiles::available();
#else
    return false;
#endif
  }

  void multiply_panel(int64_t M, int64_t K, const S* A, int64_t stride, const S* B, int64_t N,
                      float* C) const {
    if (is_half && K % 2) {  // no kernel takes an odd depth
      for (int64_t m = 0; m < M; ++m)
        for (int64_t n = 0; n < N; ++n) {
          float total = 0.f;
          for (int64_t k = 0; k < K; ++k) total += float(A[m * stride + k]) * float(B[k * N + n]);
          C[m * N + n] = total;
        }
      return;
    }
    at::native::cpublas::brgemm(M, N, K, stride, N, N, false, A, B, C, is_half);
  }

#ifdef __AMX_BF16__
  Tiles tiles_;
#endif
};

// A depthwise convolution of one plane: n channels of out [height * width, stride] and their sum.
template <int KERNEL, int ACT, typename S>
Vec depthwise(const Vec* plane, int64_t pitch, const S* weight, int64_t panel, Vec bias, int64_t kernel,
              S* out, int64_t stride, int64_t n, int64_t height, int64_t width) {
  const int64_t k = KERNEL ? KERNEL : kernel;
  Vec w[KERNEL ? KERNEL * KERNEL : MAX_KERNEL * MAX_KERNEL];
  for (int64_t tap = 0; tap < k * k; ++tap) w[tap] = load(weight + tap * panel, n);
  Vec total = {};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; x += TILE) {
      Vec tile[TILE];
      for (int64_t i = 0; i < TILE; ++i) tile[i] = bias;
      for (int64_t row = 0; row < k; ++row) {
        const Vec* in = plane + (y + row) * pitch + x;
        if constexpr (KERNEL != 0) {
          Vec cached[TILE + KERNEL - 1];
#pragma GCC unroll 16
          for (int64_t i = 0; i < TILE + KERNEL - 1; ++i) cached[i] = in[i];
#pragma GCC unroll 8
          for (int64_t tap = 0; tap < KERNEL; ++tap)
#pragma GCC unroll 8
            for (int64_t i = 0; i < TILE; ++i) tile[i] += cached[i + tap] * w[row * KERNEL + tap];
        } else {
          for (int64_t tap = 0; tap < k; ++tap)
            for (int64_t i = 0; i < TILE; ++i) tile[i] += in[i + tap] * w[row * k + tap];
        }
      }
      for (int64_t i = 0; i < min(TILE, width - x); ++i) {
        const Vec value = activate<ACT>(tile[i]);
        total += value;
        store(out + (y * width + x + i) * stride, value, n);
      }
    }
  return total;
}

// One block for one row. `x` [prefix + height * width, C], of which the first `class_tokens` feed
// the head. Groups run in parallel where rows do not.
template <typename S, int ACT>
class RowPrompt {
 public:
  RowPrompt(S* x, int64_t prefix, int64_t class_tokens, int64_t height, int64_t width, int64_t C,
            const Plan& plan, const S* values)
      : x_(x), map_(x + prefix * C), class_tokens_(class_tokens), height_(height), width_(width),
        pixels_(height * width), C_(C), G_(plan.groups), N_(C / plan.groups),
        depth_(Products<S>::depth(N_)), plan_(plan),
        block_(block_at(values, plan, C)) {
    static thread_local Scratch<S> inner;
    static thread_local Scratch<float> means, gates;
    inner_ = inner.of(pixels_ * C), means_ = means.of(C), gates_ = gates.of(C + LANES);
  }

  void run() const {
    at::parallel_for(0, G_, 1, [&](int64_t first, int64_t last) {
      Products<S> products;
      for (int64_t g = first; g < last; ++g) convolve(g, products);
    });
    squeeze_and_excite();
    at::parallel_for(0, G_, 1, [&](int64_t first, int64_t last) {
      Products<S> products;
      for (int64_t g = first; g < last; ++g) blend(g, products);
    });
  }

 private:
  // The first two convolutions of a group: map -> inner [pixels, N], and the mean of it.
  void convolve(int64_t g, Products<S>& products) const {
    static thread_local Planes planes;
    const int64_t border = plan_.kernel / 2;
    const S* from = map_ + g * N_;
    const int64_t width = panel_width(N_);
    for (int64_t n = 0; n < N_; n += width) {
      const int64_t vectors = (width + LANES - 1) / LANES;
      Vec* plane = planes.of(vectors, height_, width_, border);
      const S* weight = block_.conv1_weight + (g * N_ + n) * N_;
      Vec* bias = biases(vectors);
      for (int64_t j = 0; j < vectors; ++j)
        bias[j] = load(block_.conv1_bias + g * N_ + n + j * LANES, width - j * LANES);
      for_each_product(
          products, {from, C_, depth_}, weight, width, [&](int64_t pixel, const float* product) {
            if (n == 0) fetch(from + (pixel + GEMM_ROWS) * C_, N_);
            const int64_t y = pixel / width_, x = pixel % width_;
            Vec* to = plane + (border + y) * planes.pitch + border + x;
            for (int64_t j = 0; j < vectors; ++j)
              to[j * planes.size] = activate<ACT>(load(product + j * LANES) + bias[j]);
          });
      for (int64_t j = 0; j < vectors; ++j) {
        const Vec total = convolve_depthwise(plane + j * planes.size, planes.pitch, g, n + j * LANES);
        store(means_ + g * N_ + n + j * LANES, total / float(pixels_), N_ - n - j * LANES);
      }
    }
  }

  // Call `use` with each pixel and its `width` products.
  template <typename Use>
  void for_each_product(Products<S>& products, Pixels<S> from, const S* weight, int64_t width,
                        const Use& use) const {
    static thread_local Scratch<float> values;
    float* product = values.of(GEMM_ROWS * width + LANES);
    for (int64_t start = 0; start < pixels_; start += GEMM_ROWS, from.at += GEMM_ROWS * from.row) {
      const int64_t rows = min(GEMM_ROWS, pixels_ - start);
      products.multiply(rows, N_, from, weight, width, product);
      for (int64_t i = 0; i < rows; ++i) use(start + i, product + i * width);
    }
  }

  static Vec* biases(int64_t vectors) {
    static thread_local Scratch<Vec> values;
    return values.of(vectors);
  }

  Vec convolve_depthwise(const Vec* plane, int64_t pitch, int64_t g, int64_t n) const {
    const int64_t panel = panel_width(N_), left = N_ - n;
    const S* weight = block_.conv2_weight + (g * N_ + n / panel * panel) * plan_.kernel * plan_.kernel + n % panel;
    auto with = [&](auto kernel) {
      return depthwise<kernel.value, ACT>(
          plane, pitch, weight, panel, load(block_.conv2_bias + g * N_ + n, left), plan_.kernel,
          inner_ + (g * N_ + n / depth_ * depth_) * pixels_ + n % depth_, depth_, left, height_, width_);
    };
    switch (plan_.kernel) {
      case 3: return with(std::integral_constant<int, 3>{});
      case 5: return with(std::integral_constant<int, 5>{});
      case 7: return with(std::integral_constant<int, 7>{});
      default: return with(std::integral_constant<int, 0>{});
    }
  }

  void squeeze_and_excite() const {
    for (int64_t c = 0; c < C_; c += LANES)
      store(gates_ + c, load(block_.expand_bias + c, C_ - c), C_ - c);
    for (int64_t r = 0; r < plan_.squeezed; ++r) {
      Vec total = {};
      for (int64_t c = 0; c < C_; c += LANES)
        total += load(block_.reduce_weight + r * C_ + c, C_ - c) * load(means_ + c, C_ - c);
      const float squeezed = silu(sum(total) + float(block_.reduce_bias[r]));
      for (int64_t c = 0; c < C_; c += LANES) {
        const Vec weight = load(block_.expand_weight + r * C_ + c, C_ - c);
        store(gates_ + c, load(gates_ + c, C_ - c) + squeezed * weight, C_ - c);
      }
    }
    for (int64_t c = 0; c < C_; ++c) gates_[c] = 1.f / (1.f + std::exp(-gates_[c]));
  }

  // The gates and the last convolution of a group, added to the map and to the class tokens.
  void blend(int64_t g, Products<S>& products) const {
    S* inner = inner_ + g * pixels_ * N_;
    // A gate scales a channel of the map, or a row of the weights: whichever is smaller.
    const bool scales_map = pixels_ <= N_;
    if (scales_map) scale(inner, g);
    const int64_t width = panel_width(N_);
    for (int64_t n = 0; n < N_; n += width) {
      const S* weight = block_.conv3_weight + (g * N_ + n) * N_;
      if (!scales_map) weight = gated(weight, width, g);
      const int64_t vectors = (width + LANES - 1) / LANES;
      Vec* bias = biases(2 * vectors);
      Vec* totals = bias + vectors;
      for (int64_t j = 0; j < vectors; ++j) {
        bias[j] = load(block_.conv3_bias + g * N_ + n + j * LANES, width - j * LANES);
        totals[j] = Vec{};
      }
      S* to = map_ + g * N_ + n;
      for_each_product(
          products, {inner, depth_, pixels_ * depth_}, weight, width,
          [&](int64_t pixel, const float* product) {
        fetch(to + (pixel + GEMM_ROWS) * C_, width);
        for (int64_t j = 0; j < vectors; ++j) {
          S* place = to + pixel * C_ + j * LANES;
          const Vec prompt = load(product + j * LANES) + bias[j];
          totals[j] += prompt;
          store(place, load(place, width - j * LANES) + prompt, width - j * LANES);
        }
      });
      if (!plan_.class_token) continue;
      for (int64_t token = 0; token < class_tokens_; ++token)
        for (int64_t j = 0; j < vectors; ++j) {
          S* place = x_ + token * C_ + g * N_ + n + j * LANES;
          store(place, load(place, width - j * LANES) + totals[j] / float(pixels_), width - j * LANES);
        }
    }
  }

  // Panels of weights with each row scaled by its gate.
  const S* gated(const S* weight, int64_t width, int64_t g) const {
    static thread_local Scratch<S> copies;
    S* copy = copies.of(N_ * width);
    const int64_t rows = interleaved<S>(N_);
    for (int64_t k = 0; k < N_; k += rows) {
      Vec gate;
      for (int64_t i = 0; i < LANES; ++i) gate[i] = gates_[g * N_ + k + i % rows];
      for (int64_t i = k * width; i < (k + rows) * width; i += LANES) {
        const int64_t left = (k + rows) * width - i;
        store(copy + i, load(weight + i, left) * gate, left);
      }
    }
    return copy;
  }

  void scale(S* inner, int64_t g) const {
    for (int64_t n = 0; n < N_; n += LANES) {
      const int64_t left = N_ - n;
      const Vec gate = load(gates_ + g * N_ + n, left);
      S* value = inner + n / depth_ * depth_ * pixels_ + n % depth_;
      for (int64_t i = 0; i < pixels_; ++i, value += depth_) store(value, load(value, left) * gate, left);
    }
  }

  S *x_, *map_, *inner_;
  float *means_, *gates_;
  int64_t class_tokens_, height_, width_, pixels_, C_, G_, N_, depth_;
  Plan plan_;
  Block<S> block_;
};

// ---- whole batches -----------------------------------------------------------------------------

Plan read_plan(const int64_t* fields, int64_t C, int64_t bank_values) {
  const Plan plan{fields[0], fields[1], fields[2], fields[3], fields[4], fields[5]};
  if (plan.offset < 0) return plan;
  TORCH_CHECK(
      plan.kernel % 2 == 1 && plan.kernel <= MAX_KERNEL && plan.groups > 0 &&
          C % plan.groups == 0 && plan.squeezed > 0,
      "A plan does not fit features of ", C, " channels. Report this bug.");
  TORCH_CHECK(
      plan.offset + block_values(plan, C) <= bank_values,
      "A plan reaches beyond the bank. Report this bug.");
  return plan;
}

template <typename S>
void prompt_row(S* x, int64_t prefix, int64_t class_tokens, int64_t height, int64_t width, int64_t C,
                const Plan& plan, const S* bank) {
  auto with = [&](auto activation) {
    RowPrompt<S, activation.value>(
        x, prefix, class_tokens, height, width, C, plan, bank + plan.offset).run();
  };
  switch (plan.activation) {
    case RELU: return with(std::integral_constant<int, RELU>{});
    case GELU: return with(std::integral_constant<int, GELU>{});
    case SILU: return with(std::integral_constant<int, SILU>{});
    default: return with(std::integral_constant<int, HARDSWISH>{});
  }
}

// Rows run in parallel if there are enough of them for all threads.
template <typename Run>
void for_each_row(int64_t rows, const Run& run) {
  if (rows < at::get_num_threads()) {
    for (int64_t row = 0; row < rows; ++row) run(row);
    return;
  }
  at::parallel_for(0, rows, 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) run(row);
  });
}

template <typename S>
void blend_prompts(at::Tensor& x, int64_t class_tokens, int64_t height, int64_t width,
                   const at::Tensor& bank, const at::Tensor& plans, int64_t site) {
  const int64_t C = x.size(2), prefix = x.size(1) - height * width, blocks = plans.size(2);
  S* rows = x.data_ptr<S>();
  for_each_row(x.size(0), [&](int64_t row) {
    const int64_t* fields = plans.const_data_ptr<int64_t>() + (row * plans.size(1) + site) * blocks * FIELDS;
    for (int64_t i = 0; i < blocks; ++i) {
      const Plan plan = read_plan(fields + i * FIELDS, C, bank.numel());
      if (plan.offset < 0) return;
      prompt_row<S>(rows + row * x.stride(0), prefix, class_tokens, height, width, C, plan,
                    bank.const_data_ptr<S>());
    }
  });
}

void prompt_rows_(at::Tensor& x, int64_t class_tokens, int64_t height, int64_t width,
                  const at::Tensor& bank, const at::Tensor& plans, int64_t site) {
  TORCH_CHECK(
      x.dim() == 3 && x.stride(2) == 1 && x.stride(1) == x.size(2) && x.size(1) >= height * width,
      "Features are [rows, tokens, channels] with the channels last.");
  TORCH_CHECK(
      plans.dim() == 4 && plans.is_contiguous() && plans.size(0) == x.size(0) &&
          plans.size(3) == FIELDS && site < plans.size(1) && bank.scalar_type() == x.scalar_type(),
      "Plans are [rows, sites, blocks, ", FIELDS, "], and the bank is of the features' dtype.");
  if (x.scalar_type() == at::kFloat) return blend_prompts<float>(x, class_tokens, height, width, bank, plans, site);
  TORCH_CHECK(x.scalar_type() == at::kBFloat16, "Features are float32 or bfloat16.");
  blend_prompts<BFloat16>(x, class_tokens, height, width, bank, plans, site);
}

// The logits of one class for the rows of its segment.
template <typename S>
void class_logits(const float* features, int64_t D, int64_t rows, const S* head, float* logits, int64_t classes) {
  for (int64_t row = 0; row < rows; ++row) {
    Vec total = {};
    for (int64_t d = 0; d < D; d += LANES)
      total += load(features + row * D + d, D - d) * load(head + d, D - d);
    logits[row * classes] = sum(total) + float(head[D]);
  }
}

// features float32 [rows, D], heads [any, D + 1], classes int32: rows of heads, segment by segment;
// segments int64 [segments, 4]: first row, rows, first class, classes. All logits, segment by
// segment, each [rows, classes].
at::Tensor head_rows(const at::Tensor& features, const at::Tensor& heads, const at::Tensor& classes,
                     const at::Tensor& segments) {
  const int64_t D = features.size(1);
  TORCH_CHECK(
      features.is_contiguous() && features.scalar_type() == at::kFloat && heads.is_contiguous() &&
          heads.size(1) == D + 1 && classes.scalar_type() == at::kInt && segments.is_contiguous(),
      "Heads do not fit the features. Report this bug.");
  std::vector<int64_t> segment_of, start_of;
  int64_t size = 0;
  const int64_t* fields = segments.const_data_ptr<int64_t>();
  for (int64_t s = 0; s < segments.size(0); ++s) {
    segment_of.insert(segment_of.end(), fields[4 * s + 3], s);
    start_of.push_back(size);
    size += fields[4 * s + 1] * fields[4 * s + 3];
  }
  TORCH_CHECK(int64_t(segment_of.size()) == classes.numel(), "Segments do not fit the classes.");
  at::Tensor logits = at::empty({size}, features.options());
  auto run = [&](auto type) {
    using S = decltype(type);
    at::parallel_for(0, classes.numel(), 16, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t s = segment_of[i];
        const int64_t* f = fields + 4 * s;
        class_logits<S>(
            features.const_data_ptr<float>() + f[0] * D, D, f[1],
            heads.const_data_ptr<S>() + int64_t(classes.const_data_ptr<int32_t>()[i]) * (D + 1),
            logits.data_ptr<float>() + start_of[s] + (i - f[2]), f[3]);
      }
    });
  };
  if (heads.scalar_type() == at::kFloat) run(float{});
  else run(BFloat16{});
  return logits;
}

}  // namespace

TORCH_LIBRARY(protuning, m) {
  m.def("prompt_rows_(Tensor(a!) x, int class_tokens, int height, int width, Tensor bank, Tensor plans, int site) -> ()");
  m.def("head_rows(Tensor features, Tensor heads, Tensor classes, Tensor segments) -> Tensor");
}

TORCH_LIBRARY_IMPL(protuning, CPU, m) {
  m.impl("prompt_rows_", prompt_rows_);
  m.impl("head_rows", head_rows);
}
