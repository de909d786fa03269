// The task-specific part of a mixed batch on a CPU: prompts and heads, every row with its own weights.
//
// `prompt_rows_` blends the prompts of one site into a batch of features in place, Eq. (1): a row's
// map stays in the cache of one core from its first convolution to its last. `head_rows` multiplies
// each row's features with the head of its task. Weights are read where they lie in the bank, in the
// order that service/engines/packed.py gives them; nothing is gathered first.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "prompt.h"

namespace {

using namespace protuning;

constexpr int64_t FIELDS = 6;  // of a plan

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
    auto run = [&](auto vectors) {
      RowPrompt<S, activation.value, vectors.value>(
          x, prefix, class_tokens, height, width, C, plan, bank + plan.offset).run();
    };
    switch (panel_width(C / plan.groups)) {
      case 2 * LANES: return run(std::integral_constant<int, 2>{});
      case LANES: return run(std::integral_constant<int, 1>{});
      default: return run(std::integral_constant<int, 0>{});
    }
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
      x.dim() == 3 && x.stride(2) == 1 && x.stride(1) == x.size(2) &&
          class_tokens + height * width <= x.size(1),
      "Features are [rows, tokens, channels] with the channels last.");
  TORCH_CHECK(
      plans.dim() == 4 && plans.is_contiguous() && plans.size(0) == x.size(0) &&
          plans.size(3) == FIELDS && site >= 0 && site < plans.size(1) && bank.scalar_type() == x.scalar_type(),
      "Plans are [rows, sites, blocks, ", FIELDS, "], and the bank is of the features' dtype.");
  if (x.scalar_type() == at::kFloat) return blend_prompts<float>(x, class_tokens, height, width, bank, plans, site);
  TORCH_CHECK(x.scalar_type() == at::kBFloat16, "Features are float32 or bfloat16.");
  blend_prompts<BFloat16>(x, class_tokens, height, width, bank, plans, site);
}

// One segment's rows of the batch, and the rows of the bank's heads that are its classes.
struct Segment {
  int64_t row, rows;
  const int32_t* classes;
  float* logits;  // [rows, count]
  int64_t count;
};

template <typename S>
void class_logits(const Segment& segment, int64_t number, const float* features, const S* heads, int64_t D) {
  const S* head = heads + segment.classes[number] * (D + 1);
  for (int64_t i = 0; i < segment.rows; ++i) {
    const float* row = features + (segment.row + i) * D;
    segment.logits[i * segment.count + number] = dot(row, head, D) + float(head[D]);
  }
}

// The logits of each segment, float32 [rows, classes]. `features` float32 [batch, D] in the order of
// the segments, `heads` [any, D + 1]: weights of a class, then its bias; `classes` int32, the rows of
// `heads` for each segment.
std::vector<at::Tensor> head_rows(const at::Tensor& features, const at::Tensor& heads,
                                  at::TensorList classes, at::IntArrayRef rows) {
  const int64_t D = features.size(1);
  TORCH_CHECK(
      features.is_contiguous() && features.scalar_type() == at::kFloat && heads.is_contiguous() &&
          heads.size(1) == D + 1 && classes.size() == rows.size(),
      "Heads do not fit the features. Report this bug.");
  std::vector<at::Tensor> logits;
  std::vector<Segment> segments;
  std::vector<int64_t> firsts;
  int64_t row = 0, total = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    TORCH_CHECK(classes[i].scalar_type() == at::kInt && classes[i].is_contiguous(), "Classes are int32.");
    const int64_t count = classes[i].numel();
    logits.push_back(at::empty({rows[i], count}, features.options()));
    segments.push_back(
        {row, rows[i], classes[i].const_data_ptr<int32_t>(), logits[i].data_ptr<float>(), count});
    firsts.push_back(total);
    row += rows[i], total += count;
  }
  TORCH_CHECK(row == features.size(0), "Segments do not fit the features. Report this bug.");
  auto run = [&](auto type) {
    using S = decltype(type);
    at::parallel_for(0, total, 16, [&](int64_t first, int64_t last) {
      auto at = std::upper_bound(firsts.begin(), firsts.end(), first) - firsts.begin() - 1;
      for (int64_t i = first; i < last; ++i) {
        while (i - firsts[at] >= segments[at].count) ++at;
        class_logits<S>(
            segments[at], i - firsts[at], features.const_data_ptr<float>(), heads.const_data_ptr<S>(), D);
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
  m.def("head_rows(Tensor features, Tensor heads, Tensor[] classes, int[] rows) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(protuning, CPU, m) {
  m.impl("prompt_rows_", prompt_rows_);
  m.impl("head_rows", head_rows);
}
