// What tasks add to the base's outputs, each to its own rows of a batch, which lie one after the other (see
// row_product.py). No library and no torch header.

#include <algorithm>
#include <cstdint>

// The changes of a linear layer: entries of the weight by rising input, where they go and what they are; and of the bias.
template <typename T>
struct Linear {
    const int32_t *output, *input;
    const T *value;
    const int32_t *bias_at;
    const T *bias;
    int64_t entries, biases, outputs, inputs;
};

// Several rows at a time, so that the entries are read once for them.
template <typename T, int ROWS>
static void add_rows(T *__restrict y, const T *__restrict x, const Linear<T> &linear) {
    const int64_t outputs = linear.outputs, inputs = linear.inputs;
    for (int64_t k = 0; k < linear.entries; ++k) {
        const T value = linear.value[k];
        T *there = y + linear.output[k];
        const T *here = x + linear.input[k];
        for (int r = 0; r < ROWS; ++r) there[r * outputs] += value * here[r * inputs];
    }
    for (int64_t k = 0; k < linear.biases; ++k)
        for (int r = 0; r < ROWS; ++r) y[r * outputs + linear.bias_at[k]] += linear.bias[k];
}

template <typename T>
static void add_linear(T *y, const T *x, const Linear<T> &linear, int64_t rows) {
    for (; rows >= 8; rows -= 8, y += 8 * linear.outputs, x += 8 * linear.inputs) add_rows<T, 8>(y, x, linear);
    for (; rows > 0; --rows, y += linear.outputs, x += linear.inputs) add_rows<T, 1>(y, x, linear);
}

// The changed elements of an embedding's vectors, written into those that were looked up.
template <typename T>
static void put_vectors(T *y, const int64_t *ids, const int64_t *position, const T *value, int64_t positions, int64_t rows,
                        int64_t width) {
    for (int64_t row = 0; row < rows; ++row, y += width) {
        const int64_t first = ids[row] * width;
        int64_t k = std::lower_bound(position, position + positions, first) - position;
        for (; k < positions && position[k] < first + width; ++k) y[position[k] - first] = value[k];
    }
}

#define EXPORT(NAME, T)                                                                                               \
    extern "C" void add_linear_##NAME(T *y, const T *x, const Linear<T> *linear, int64_t rows) {                      \
        add_linear(y, x, *linear, rows);                                                                              \
    }                                                                                                                 \
    extern "C" void put_vectors_##NAME(T *y, const int64_t *ids, const int64_t *position, const T *value,             \
                                       int64_t positions, int64_t rows, int64_t width) {                              \
        put_vectors(y, ids, position, value, positions, rows, width);                                                 \
    }

EXPORT(float32, float)
EXPORT(float64, double)
