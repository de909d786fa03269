// One prompt block for one row of a batch.
#pragma once

#include <ATen/Parallel.h>

#include <array>
#include <vector>

#include "products.h"

namespace protuning {

constexpr int64_t TILE = 7;         // neighbouring outputs of a depthwise convolution: 7 divides most maps
constexpr int64_t MAX_KERNEL = 15;  // as in adapters/manifest.py

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
inline int64_t aligned(int64_t values) { return (values + 31) / 32 * 32; }

inline int64_t block_values(const Plan& plan, int64_t C) {
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

// A map in blocks of LANES channels, each with a border of zeros as wide as the kernel reaches, and
// on the right up to a whole tile.
class Planes {
 public:
  Vec* of(int64_t blocks, int64_t height, int64_t width, int64_t border) {
    const int64_t pitch = (width + TILE - 1) / TILE * TILE + 2 * border;
    const int64_t size = (height + 2 * border) * pitch;
    if (blocks != blocks_ || height != height_ || width != width_ || border != border_) {
      blocks_ = 0;  // no shape, should there be no memory
      std::fill_n(values_.of(blocks * size), blocks * size, Vec{});
      blocks_ = blocks, height_ = height, width_ = width, border_ = border;
      this->pitch = pitch, this->size = size;
    }
    return values_.of(blocks * size);
  }

  int64_t pitch = 0;  // vectors of a row
  int64_t size = 0;   // vectors of a plane

 private:
  Scratch<Vec> values_;
  int64_t blocks_ = 0, height_ = 0, width_ = 0, border_ = 0;
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
// the head. Groups run in parallel where rows do not. A panel of a group has as many VECTORS, or none
// where they do not divide the group.
template <typename S, int ACT, int VECTORS>
class RowPrompt {
 public:
  RowPrompt(S* x, int64_t prefix, int64_t class_tokens, int64_t height, int64_t width, int64_t C,
            const Plan& plan, const S* values)
      : x_(x), map_(x + prefix * C), class_tokens_(class_tokens), height_(height), width_(width),
        pixels_(height * width), C_(C), G_(plan.groups), N_(C / plan.groups),
        depth_(Products<S>::depth(N_)), plan_(plan), block_(block_at(values, plan, C)) {
    static thread_local Scratch<S> inner;
    static thread_local Scratch<float> means, gates;
    inner_ = inner.of(pixels_ * C), means_ = means.of(C), gates_ = gates.of(C);
  }

  void run() const {
    for_each_panel([&](int64_t channel, Products<S>& products) { convolve(channel, products); });
    squeeze_and_excite();
    for_each_panel([&](int64_t channel, Products<S>& products) { blend(channel, products); });
  }

 private:
  // A value for each channel of a panel.
  using Panel = std::conditional_t<VECTORS != 0, std::array<Vec, VECTORS>, std::vector<Vec>>;

  // Call `use` with the first channel of each panel: those of a group one after the other.
  template <typename Use>
  void for_each_panel(const Use& use) const {
    at::parallel_for(0, G_, 1, [&](int64_t first, int64_t last) {
      Products<S> products;
      for (int64_t channel = first * N_; channel < last * N_; channel += width()) use(channel, products);
    });
  }

  // The first two convolutions of a panel: map -> inner, and the mean of it.
  void convolve(int64_t channel, Products<S>& products) const {
    static thread_local Planes planes;
    const int64_t border = plan_.kernel / 2;
    Vec* plane = planes.of(vectors(), height_, width_, border);
    const Panel biases = panel_at(block_.conv1_bias + channel);
    const S* from = map_ + channel / N_ * N_;
    const bool is_first = channel % N_ == 0;
    for_each_product(
        products, {from, C_, depth_}, block_.conv1_weight + channel * N_,
        [&](int64_t pixel, const float* product) {
          if (is_first) fetch(from + (pixel + PRODUCT_ROWS) * C_, N_);
          const int64_t y = pixel / width_, x = pixel % width_;
          Vec* to = plane + (border + y) * planes.pitch + border + x;
          for (int64_t j = 0; j < vectors(); ++j)
            to[j * planes.size] = activate<ACT>(load(product + j * LANES) + biases[j]);
        });
    for (int64_t j = 0; j < vectors(); ++j) {
      const Vec total = convolve_depthwise(plane + j * planes.size, planes.pitch, channel, j);
      store(means_ + channel + j * LANES, total / float(pixels_), lanes(j));
    }
  }

  // Vector j of the panel that begins at a channel.
  Vec convolve_depthwise(const Vec* plane, int64_t pitch, int64_t channel, int64_t j) const {
    const int64_t taps = plan_.kernel * plan_.kernel, first = channel + j * LANES;
    auto with = [&](auto kernel) {
      return depthwise<kernel.value, ACT>(
          plane, pitch, block_.conv2_weight + channel * taps + j * LANES, width(),
          load(block_.conv2_bias + first, lanes(j)), plan_.kernel, inner_of(first), depth_, lanes(j),
          height_, width_);
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
      const float total = dot(block_.reduce_weight + r * C_, means_, C_);
      const float squeezed = silu(total + float(block_.reduce_bias[r]));
      for (int64_t c = 0; c < C_; c += LANES) {
        const Vec weight = load(block_.expand_weight + r * C_ + c, C_ - c);
        store(gates_ + c, load(gates_ + c, C_ - c) + squeezed * weight, C_ - c);
      }
    }
    for (int64_t c = 0; c < C_; ++c) gates_[c] = 1.f / (1.f + std::exp(-gates_[c]));
  }

  // The gates and the last convolution of a panel, added to the map and to the class tokens.
  void blend(int64_t channel, Products<S>& products) const {
    const int64_t group = channel / N_ * N_;
    const S* weight = block_.conv3_weight + channel * N_;
    // A gate scales a channel of the map, or a row of the weights: whichever is smaller.
    if (pixels_ > N_) weight = gated(weight, group);
    else if (channel == group) scale(group);
    const Panel biases = panel_at(block_.conv3_bias + channel);
    Panel totals = no_panel();
    S* to = map_ + channel;
    for_each_product(
        products, {inner_of(group), depth_, pixels_ * depth_}, weight,
        [&](int64_t pixel, const float* product) {
          S* place = to + pixel * C_;
          fetch(place + PRODUCT_ROWS * C_, width());
          for (int64_t j = 0; j < vectors(); ++j) {
            const Vec prompt = load(product + j * LANES) + biases[j];
            totals[j] += prompt;
            add(place + j * LANES, prompt, lanes(j));
          }
        });
    if (!plan_.class_token) return;
    for (int64_t token = 0; token < class_tokens_; ++token)
      for (int64_t j = 0; j < vectors(); ++j)
        add(x_ + token * C_ + channel + j * LANES, totals[j] / float(pixels_), lanes(j));
  }

  // Call `use` with each pixel and its products with a panel of weights.
  template <typename Use>
  void for_each_product(Products<S>& products, Pixels<S> from, const S* weight, const Use& use) const {
    static thread_local Scratch<float> values;
    float* product = values.of(PRODUCT_ROWS * width() + LANES);
    for (int64_t start = 0; start < pixels_; start += PRODUCT_ROWS) {
      const int64_t rows = min(PRODUCT_ROWS, pixels_ - start);
      products.multiply(rows, N_, from, weight, width(), product);
      for (int64_t i = 0; i < rows; ++i) use(start + i, product + i * width());
      from.at += rows * from.row;
    }
  }

  // A panel of weights with each row scaled by its gate.
  const S* gated(const S* weight, int64_t group) const {
    static thread_local Scratch<S> copies;
    S* copy = copies.of(N_ * width());
    const int64_t rows = interleaved<S>(N_);
    for (int64_t k = 0; k < N_; k += rows) {
      Vec gate;
      for (int64_t i = 0; i < LANES; ++i) gate[i] = gates_[group + k + i % rows];
      for (int64_t i = k * width(); i < (k + rows) * width(); i += LANES) {
        const int64_t left = (k + rows) * width() - i;
        store(copy + i, load(weight + i, left) * gate, left);
      }
    }
    return copy;
  }

  void scale(int64_t group) const {
    for (int64_t n = 0; n < N_; n += LANES) {
      const int64_t left = N_ - n;
      const Vec gate = load(gates_ + group + n, left);
      S* value = inner_of(group + n);
      for (int64_t pixel = 0; pixel < pixels_; ++pixel, value += depth_)
        store(value, load(value, left) * gate, left);
    }
  }

  Panel no_panel() const {
    if constexpr (VECTORS != 0) return {};
    else return Panel(vectors());
  }

  Panel panel_at(const S* values) const {
    Panel panel = no_panel();
    for (int64_t j = 0; j < vectors(); ++j) panel[j] = load(values + j * LANES, lanes(j));
    return panel;
  }

  static void add(S* to, Vec values, int64_t n) { store(to, load(to, n) + values, n); }

  // A channel of the inner map, whose pixels are `depth_` values apart.
  S* inner_of(int64_t channel) const {
    const int64_t n = channel % N_ % depth_;
    return inner_ + (channel - n) * pixels_ + n;
  }

  int64_t width() const { return VECTORS ? VECTORS * LANES : N_; }              // of a panel
  int64_t vectors() const { return VECTORS ? VECTORS : (N_ + LANES - 1) / LANES; }
  int64_t lanes(int64_t j) const { return VECTORS ? LANES : N_ - j * LANES; }   // of vector j

  S *x_, *map_, *inner_;
  float *means_, *gates_;
  int64_t class_tokens_, height_, width_, pixels_, C_, G_, N_, depth_;
  Plan plan_;
  Block<S> block_;
};

}  // namespace protuning
