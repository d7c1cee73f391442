// The elementwise passes of diff pruning over flat memory, each read once: see passes.py for the formulas in torch,
// which these follow to rounding. Compiled where a C++ compiler is at hand; needs no library and no torch header.
//
// A piece is a stretch of one tensor that shares one group gate. Sums come out one row a piece, so that they do not
// depend on how pieces are spread over threads.

#include <cmath>
#include <cstdint>
#include <cstring>

struct Job {
    const int64_t *flat, *local, *length, *tensor, *group;  // of each piece
    void **theta;                                            // of each tensor: its parameter, base and gradient
    const void **base;
    const void **grad;
    float *w, *alpha, *w_mean, *w_square, *alpha_mean, *alpha_square;
    const float *gate, *next_gate;  // of each group
    const float *price;             // of each piece: the penalty of one element that is surely open
    double *sums;                   // of each piece: |dw|^2, |dalpha|^2, sum of G w z, sum of open probabilities
    float low, high;
    uint32_t first_key, second_key, next_first_key, next_second_key;
    float w_clip, w_rate, w_root, w_eps, alpha_clip, alpha_rate, alpha_root, alpha_eps, beta1, beta2;
    int32_t sampled;  // what is written: 1 a sample, 0 the deterministic theta
};

struct bfloat16 {
    uint16_t bits;
};

static inline float load(const float *p, int64_t i) { return p[i]; }
static inline void store(float *p, int64_t i, float x) { p[i] = x; }

static inline float load(const bfloat16 *p, int64_t i) {
    uint32_t bits = uint32_t(p[i].bits) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

static inline void store(bfloat16 *p, int64_t i, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
    p[i].bits = uint16_t(x != x ? 0x7fc0u : rounded);
}

// e^x for |x| <= 80 to about one unit in the last place (Cephes' polynomial); plain arithmetic, so that it vectorises
static inline float exponential(float x) {
    x = x < -80.0f ? -80.0f : x;
    x = x > 80.0f ? 80.0f : x;
    const float rounded = x * 1.44269504f + 12582912.0f;  // the lowest bits of this float are the nearest integer
    const float n = rounded - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r * r + r) + 1.0f;
    uint32_t bits;
    float scale;
    std::memcpy(&bits, &rounded, 4);
    bits = (bits + 127u) << 23;
    std::memcpy(&scale, &bits, 4);
    return p * scale;
}

static inline float uniform(uint32_t position, uint32_t first, uint32_t second) {
    uint32_t x = position ^ first;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) + second;
    x = x * 0x846ca68bu;
    x = (x ^ (x >> 16)) * 0x85ebca6bu;
    x = x ^ (x >> 15);
    float u = float(int32_t(x >> 8)) * 5.9604644775390625e-8f + 2.98023223876953125e-8f;
    u = u < 1e-4f ? 1e-4f : u;
    return u > 0.9999f ? 0.9999f : u;
}

struct Gate {
    float z, slope, odds;  // slope: dz/dalpha; odds: e^alpha
};

static inline Gate gate_of(float alpha, float u, float low, float high) {
    const float odds = exponential(alpha);
    const float opened = u * odds, closed = 1.0f - u;
    const float share = 1.0f / (opened + closed);
    const float s = opened * share;
    const float stretched = s * (high - low) + low;
    const float slope = (high - low) * s * (closed * share);
    float z = stretched < 0.0f ? 0.0f : stretched;
    z = z > 1.0f ? 1.0f : z;
    return {z, (stretched > 0.0f) & (stretched < 1.0f) ? slope : 0.0f, odds};
}

static inline float mean_gate(float alpha, float low, float high) {
    const float odds = exponential(alpha);
    const float stretched = odds / (odds + 1.0f) * (high - low) + low;
    const float z = stretched < 0.0f ? 0.0f : stretched;
    return z > 1.0f ? 1.0f : z;
}

template <typename T>
static void write(const Job &job, int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
        const int64_t flat = job.flat[p], n = job.length[p];
        T *__restrict theta = static_cast<T *>(job.theta[job.tensor[p]]) + job.local[p];
        const T *__restrict base = static_cast<const T *>(job.base[job.tensor[p]]) + job.local[p];
        const float *__restrict w = job.w + flat, *__restrict alpha = job.alpha + flat;
        const float gate = job.gate[job.group[p]], low = job.low, high = job.high;
        const uint32_t start = uint32_t(flat), first_key = job.first_key, second_key = job.second_key;
        if (job.sampled) {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) {
                const float u = uniform(start + uint32_t(i), first_key, second_key);
                store(theta, i, load(base, i) + gate_of(alpha[i], u, low, high).z * gate * w[i]);
            }
        } else {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) store(theta, i, load(base, i) + mean_gate(alpha[i], low, high) * gate * w[i]);
        }
    }
}

template <typename T>
static void measure(const Job &job, int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
        const int64_t n = job.length[p];
        const T *__restrict grad = static_cast<const T *>(job.grad[job.tensor[p]]) + job.local[p];
        const float gate = job.gate[job.group[p]], price = job.price[p], low = job.low, high = job.high;
        const float threshold = -low / high;
        const uint32_t first_key = job.first_key, second_key = job.second_key;
        double w_norm = 0, alpha_norm = 0, pulled = 0, opened = 0;
        // sums of single precision over short spans, of double precision over those
        for (int64_t begin = 0; begin < n; begin += 1024) {
            const int64_t m = n - begin < 1024 ? n - begin : 1024, flat = job.flat[p] + begin;
            const T *__restrict g = grad + begin;
            const float *__restrict w = job.w + flat, *__restrict alpha = job.alpha + flat;
            float a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
            for (int64_t i = 0; i < m; ++i) {
                const float u = uniform(uint32_t(flat) + uint32_t(i), first_key, second_key);
                const Gate drawn = gate_of(alpha[i], u, low, high);
                const float share = 1.0f / (drawn.odds + threshold), open = drawn.odds * share;
                const float gradient = load(g, i);
                const float to_w = gradient * drawn.z * gate;
                const float to_alpha = gradient * w[i] * gate * drawn.slope + price * open * (threshold * share);
                a += to_w * to_w;
                b += to_alpha * to_alpha;
                c += gradient * w[i] * drawn.z;
                d += open;
            }
            w_norm += a, alpha_norm += b, pulled += c, opened += d;
        }
        double *sums = job.sums + 4 * p;
        sums[0] = w_norm, sums[1] = alpha_norm, sums[2] = pulled, sums[3] = opened;
    }
}

template <typename T, bool WRITES>
static void update(const Job &job, int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
        const int64_t flat = job.flat[p], n = job.length[p];
        const int64_t tensor = job.tensor[p];
        const T *__restrict g = static_cast<const T *>(job.grad[tensor]) + job.local[p];
        T *__restrict theta = static_cast<T *>(job.theta[tensor]) + job.local[p];
        const T *__restrict base = static_cast<const T *>(job.base[tensor]) + job.local[p];
        float *__restrict w = job.w + flat, *__restrict alpha = job.alpha + flat;
        float *__restrict wm = job.w_mean + flat, *__restrict wv = job.w_square + flat;
        float *__restrict am = job.alpha_mean + flat, *__restrict av = job.alpha_square + flat;
        const float gate = job.gate[job.group[p]], price = job.price[p], low = job.low, high = job.high;
        const float next_gate = WRITES ? job.next_gate[job.group[p]] : 0.0f, threshold = -low / high;
        const float w_clip = job.w_clip, w_rate = job.w_rate, w_root = job.w_root, w_eps = job.w_eps;
        const float a_clip = job.alpha_clip, a_rate = job.alpha_rate, a_root = job.alpha_root, a_eps = job.alpha_eps;
        const float keep1 = 1.0f - job.beta1, keep2 = 1.0f - job.beta2;
        const uint32_t first_key = job.first_key, second_key = job.second_key, start = uint32_t(flat);
        const uint32_t next_first_key = job.next_first_key, next_second_key = job.next_second_key;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
            const Gate drawn = gate_of(alpha[i], uniform(start + uint32_t(i), first_key, second_key), low, high);
            const float share = 1.0f / (drawn.odds + threshold);
            const float gradient = load(g, i);
            const float to_w = gradient * drawn.z * gate * w_clip;
            const float to_alpha =
                (gradient * w[i] * gate * drawn.slope + price * (drawn.odds * share) * (threshold * share)) * a_clip;
            const float wm_new = wm[i] + keep1 * (to_w - wm[i]), wv_new = wv[i] + keep2 * (to_w * to_w - wv[i]);
            const float am_new = am[i] + keep1 * (to_alpha - am[i]);
            const float av_new = av[i] + keep2 * (to_alpha * to_alpha - av[i]);
            const float w_new = w[i] - w_rate * wm_new / (std::sqrt(wv_new) * w_root + w_eps);
            const float alpha_new = alpha[i] - a_rate * am_new / (std::sqrt(av_new) * a_root + a_eps);
            wm[i] = wm_new, wv[i] = wv_new, am[i] = am_new, av[i] = av_new, w[i] = w_new, alpha[i] = alpha_new;
            if (WRITES) {
                const float u = uniform(start + uint32_t(i), next_first_key, next_second_key);
                store(theta, i, load(base, i) + gate_of(alpha_new, u, low, high).z * next_gate * w_new);
            }
        }
    }
}

#define EXPORT(NAME, T)                                                                                               \
    extern "C" void write_##NAME(const Job *job, int64_t first, int64_t last) { write<T>(*job, first, last); }        \
    extern "C" void measure_##NAME(const Job *job, int64_t first, int64_t last) { measure<T>(*job, first, last); }    \
    extern "C" void update_##NAME(const Job *job, int64_t first, int64_t last) { update<T, false>(*job, first, last); } \
    extern "C" void update_and_write_##NAME(const Job *job, int64_t first, int64_t last) {                            \
        update<T, true>(*job, first, last);                                                                           \
    }

EXPORT(float32, float)
EXPORT(bfloat16, bfloat16)
