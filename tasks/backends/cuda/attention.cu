// Attention over long sequences, softmax(scale * Q K^T) V, in half precision with sums in FP32, as a TensorRT 8 plugin.
//
// TensorRT 8 has fused kernels up to 512 positions, and writes all scores to memory beyond. This keeps a block of
// queries in registers and passes the keys by it once, with a running maximum and sum (online softmax).
// Q, K, V and the result: half [batch, positions, heads, 64]; keys may be more or fewer than queries.
#include "tensorrt_8_abi.h"

#include <cstring>
#include <cuda_fp16.h>
#include <string>

#define VISIBLE __attribute__((visibility("default")))

namespace {

constexpr int kHead = 64; // numbers of a head
constexpr int kKeys = 64; // keys at a time
constexpr int kWarps = 4;
constexpr int kTile = kKeys * kHead;
constexpr float kLog2E = 1.4426950408889634f;
constexpr int kManyBlocks = 528;       // four for each of an H100's processors
constexpr uint32_t kOnes = 0x3c003c00; // two halves of 1

struct Sizes {
    int queries, keys, heads;
    float scale; // of the scores, times log2(e)
};

__device__ uint32_t shared_address(void const* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Eight halves of a row lie together; rows that are read together lie in different banks.
__device__ int at(int row, int column) { return row * kHead + ((((column >> 3) ^ row) & 7) << 3); }

__device__ void copy_16_bytes(half* to, half const* from, bool exists) {
    int const bytes = exists ? 16 : 0; // the rest is filled with zeros
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)), "l"(from), "r"(bytes));
}

__device__ void load_matrices(uint32_t (&into)[4], half const* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(into[0]), "=r"(into[1]), "=r"(into[2]), "=r"(into[3])
                 : "r"(shared_address(from)));
}

__device__ void load_transposed(uint32_t (&into)[4], half const* from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(into[0]), "=r"(into[1]), "=r"(into[2]), "=r"(into[3])
                 : "r"(shared_address(from)));
}

__device__ void multiply_add(float (&sum)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ float power_of_2(float exponent) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(power) : "f"(exponent));
    return power;
}

__device__ uint32_t pack(float low, float high) {
    half2 const both = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t const*>(&both);
}

__device__ void copy_tile(half* to, half const* from, int first, int rows, int stride) {
#pragma unroll
    for (int chunk = threadIdx.x; chunk < kTile / 8; chunk += kWarps * 32) {
        int const row = chunk >> 3, column = (chunk & 7) << 3;
        bool const exists = first + row < rows;
        copy_16_bytes(to + at(row, column), from + static_cast<size_t>(exists ? first + row : 0) * stride + column,
                      exists);
    }
}

// A block of threads has 64 * kRows queries of one head, a warp 16 * kRows of them.
template <int kRows, int kBlocks>
__global__ void __launch_bounds__(kWarps * 32, kBlocks)
    attend(half const* __restrict__ query, half const* __restrict__ key, half const* __restrict__ value,
           half* __restrict__ result, Sizes const sizes) {
    __shared__ __align__(128) half keys[2][kTile]; // one is read while the other is filled
    __shared__ __align__(128) half values[2][kTile];
    int const lane = threadIdx.x & 31, line = lane >> 2, pair = (lane & 3) << 1;
    int const head = blockIdx.y % sizes.heads, sample = blockIdx.y / sizes.heads;
    int const stride = sizes.heads * kHead;
    int const first = (blockIdx.x * kWarps + (threadIdx.x >> 5)) * 16 * kRows;
    size_t const of_query = static_cast<size_t>(sample) * sizes.queries * stride + head * kHead;
    size_t const of_key = static_cast<size_t>(sample) * sizes.keys * stride + head * kHead;
    key += of_key, value += of_key, query += of_query, result += of_query;

    int const blocks = (sizes.keys + kKeys - 1) / kKeys;
    copy_tile(keys[0], key, 0, sizes.keys, stride);
    copy_tile(values[0], value, 0, sizes.keys, stride);
    asm volatile("cp.async.commit_group;\n");

    uint32_t asked[kRows][4][4]; // queries as the left factors of 16 x 16 products
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int step = 0; step < 4; ++step)
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                int const row = min(first + r * 16 + line + (part & 1) * 8, sizes.queries - 1);
                int const column = step * 16 + pair + (part >> 1) * 8;
                asked[r][step][part] =
                    *reinterpret_cast<uint32_t const*>(query + static_cast<size_t>(row) * stride + column);
            }

    // The ninth product is with ones: the sum of the shares.
    float sums[kRows][9][4] = {}, most[kRows][2];
#pragma unroll
    for (int r = 0; r < kRows; ++r)
        most[r][0] = most[r][1] = -INFINITY;

    for (int block = 0; block < blocks; ++block) {
        int const here = block & 1;
        asm volatile("cp.async.wait_group 0;\n");
        __syncthreads();
        if (block + 1 < blocks) {
            copy_tile(keys[here ^ 1], key, (block + 1) * kKeys, sizes.keys, stride);
            copy_tile(values[here ^ 1], value, (block + 1) * kKeys, sizes.keys, stride);
            asm volatile("cp.async.commit_group;\n");
        }

        float scores[kRows][8][4] = {};
#pragma unroll
        for (int step = 0; step < 4; ++step)
#pragma unroll
            for (int two = 0; two < 4; ++two) {
                uint32_t right[4];
                int const row = two * 16 + (lane & 7) + ((lane >> 4) & 1) * 8;
                load_matrices(right, keys[here] + at(row, step * 16 + ((lane >> 3) & 1) * 8));
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    multiply_add(scores[r][two * 2], asked[r][step], right[0], right[1]);
                    multiply_add(scores[r][two * 2 + 1], asked[r][step], right[2], right[3]);
                }
            }
        if ((block + 1) * kKeys > sizes.keys)
#pragma unroll
            for (int r = 0; r < kRows; ++r)
#pragma unroll
                for (int tile = 0; tile < 8; ++tile)
#pragma unroll
                    for (int part = 0; part < 4; ++part)
                        if (block * kKeys + tile * 8 + pair + (part & 1) >= sizes.keys)
                            scores[r][tile][part] = -INFINITY;

        uint32_t shares[kRows][4][4];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            float high[2] = {most[r][0], most[r][1]};
#pragma unroll
            for (int tile = 0; tile < 8; ++tile)
#pragma unroll
                for (int side = 0; side < 2; ++side)
                    high[side] = fmaxf(high[side], fmaxf(scores[r][tile][side * 2], scores[r][tile][side * 2 + 1]));
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                high[side] = fmaxf(high[side], __shfl_xor_sync(0xffffffffu, high[side], 1));
                high[side] = fmaxf(high[side], __shfl_xor_sync(0xffffffffu, high[side], 2));
            }
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                float const shrink = power_of_2((most[r][side] - high[side]) * sizes.scale);
                most[r][side] = high[side];
#pragma unroll
                for (int tile = 0; tile < 9; ++tile)
                    sums[r][tile][side * 2] *= shrink, sums[r][tile][side * 2 + 1] *= shrink;
            }
#pragma unroll
            for (int side = 0; side < 2; ++side) {
                float const shift = most[r][side] * sizes.scale;
#pragma unroll
                for (int tile = 0; tile < 8; ++tile) {
                    float const low = fmaf(scores[r][tile][side * 2], sizes.scale, -shift);
                    float const next = fmaf(scores[r][tile][side * 2 + 1], sizes.scale, -shift);
                    shares[r][tile >> 1][(tile & 1) * 2 + side] = pack(power_of_2(low), power_of_2(next));
                }
            }
        }
#pragma unroll
        for (int step = 0; step < 4; ++step) {
#pragma unroll
            for (int two = 0; two < 4; ++two) {
                uint32_t right[4];
                int const row = step * 16 + (lane & 7) + ((lane >> 3) & 1) * 8;
                load_transposed(right, values[here] + at(row, two * 16 + ((lane >> 4) & 1) * 8));
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    multiply_add(sums[r][two * 2], shares[r][step], right[0], right[1]);
                    multiply_add(sums[r][two * 2 + 1], shares[r][step], right[2], right[3]);
                }
            }
#pragma unroll
            for (int r = 0; r < kRows; ++r)
                multiply_add(sums[r][8], shares[r][step], kOnes, kOnes);
        }
    }

#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int side = 0; side < 2; ++side) {
            int const row = first + r * 16 + line + side * 8;
            if (row >= sizes.queries)
                continue;
            float const share = 1.f / sums[r][8][side * 2];
#pragma unroll
            for (int tile = 0; tile < 8; ++tile)
                *reinterpret_cast<uint32_t*>(result + static_cast<size_t>(row) * stride + tile * 8 + pair) =
                    pack(sums[r][tile][side * 2] * share, sums[r][tile][side * 2 + 1] * share);
        }
}

} // namespace

// For tests that have no TensorRT: one call on device memory. `scale` is that of the scores.
extern "C" VISIBLE int enginegate_attend(void const* query, void const* key, void const* value, void* result, int batch,
                                         int queries, int keys, int heads, float scale, cudaStream_t stream) {
    Sizes const sizes{queries, keys, heads, scale * kLog2E};
    auto const run = [&](auto kernel, int rows) {
        int const size = kWarps * 16 * rows;
        kernel<<<dim3((queries + size - 1) / size, batch * heads), kWarps * 32, 0, stream>>>(
            static_cast<half const*>(query), static_cast<half const*>(key), static_cast<half const*>(value),
            static_cast<half*>(result), sizes);
    };
    // Few blocks leave processors idle, so that they are halved; many are faster with more queries each.
    int const wide = (queries + 127) / 128 * batch * heads;
    wide > kManyBlocks ? run(attend<2, 2>, 2) : run(attend<1, 4>, 1);
    return cudaGetLastError() == cudaSuccess ? 0 : 1;
}

namespace {

using namespace nvinfer1;

constexpr char kName[] = "EnginegateAttention";
constexpr char kVersionText[] = "1";

class Attention : public IPluginV2DynamicExt {
public:
    explicit Attention(float scale) : scale_(scale) {}

    char const* getPluginType() const noexcept override { return kName; }
    char const* getPluginVersion() const noexcept override { return kVersionText; }
    int32_t getNbOutputs() const noexcept override { return 1; }
    int32_t initialize() noexcept override { return 0; }
    void terminate() noexcept override {}
    size_t getSerializationSize() const noexcept override { return sizeof(scale_); }
    void serialize(void* buffer) const noexcept override { std::memcpy(buffer, &scale_, sizeof(scale_)); }
    void destroy() noexcept override { delete this; }
    Attention* clone() const noexcept override { return new Attention(*this); }
    void setPluginNamespace(char const* name) noexcept override { namespace_ = name; }
    char const* getPluginNamespace() const noexcept override { return namespace_.c_str(); }
    DataType getOutputDataType(int32_t, DataType const* types, int32_t) const noexcept override { return types[0]; }
    using IPluginV2::enqueue;
    using IPluginV2::getOutputDimensions;
    using IPluginV2::getWorkspaceSize;
    using IPluginV2Ext::configurePlugin;

    DimsExprs getOutputDimensions(int32_t, DimsExprs const* inputs, int32_t, IExprBuilder&) noexcept override {
        return inputs[0];
    }
    bool supportsFormatCombination(int32_t position, PluginTensorDesc const* tensors, int32_t,
                                   int32_t) noexcept override {
        return tensors[position].type == DataType::kHALF && tensors[position].format == TensorFormat::kLINEAR;
    }
    void configurePlugin(DynamicPluginTensorDesc const*, int32_t, DynamicPluginTensorDesc const*,
                         int32_t) noexcept override {}
    size_t getWorkspaceSize(PluginTensorDesc const*, int32_t, PluginTensorDesc const*,
                            int32_t) const noexcept override {
        return 0;
    }
    int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const*, void const* const* inputs,
                    void* const* outputs, void*, cudaStream_t stream) noexcept override {
        int32_t const* query = in[0].dims.d;
        if (query[3] != kHead)
            return 1;
        return enginegate_attend(inputs[0], inputs[1], inputs[2], outputs[0], query[0], query[1], in[1].dims.d[1],
                                 query[2], scale_, stream);
    }

private:
    float scale_;
    std::string namespace_;
};

class Creator : public IPluginCreator {
public:
    char const* getPluginName() const noexcept override { return kName; }
    char const* getPluginVersion() const noexcept override { return kVersionText; }
    PluginFieldCollection const* getFieldNames() noexcept override { return &fields_; }
    IPluginV2* createPlugin(char const*, PluginFieldCollection const* given) noexcept override {
        for (int32_t index = 0; index < given->nbFields; ++index)
            if (std::strcmp(given->fields[index].name, "scale") == 0)
                return new Attention(*static_cast<float const*>(given->fields[index].data));
        return nullptr;
    }
    IPluginV2* deserializePlugin(char const*, void const* data, size_t length) noexcept override {
        float scale;
        if (length != sizeof(scale))
            return nullptr;
        std::memcpy(&scale, data, sizeof(scale));
        return new Attention(scale);
    }
    void setPluginNamespace(char const* name) noexcept override { namespace_ = name; }
    char const* getPluginNamespace() const noexcept override { return namespace_.c_str(); }

private:
    PluginField const field_{"scale", nullptr, PluginFieldType::kFLOAT32, 1};
    PluginFieldCollection const fields_{1, &field_};
    std::string namespace_;
};

} // namespace

// What TensorRT asks a library of plugins for.
extern "C" VISIBLE void setLoggerFinder(ILoggerFinder*) {}

extern "C" VISIBLE IPluginCreator* const* getPluginCreators(int32_t& count) {
    static Creator creator;
    static IPluginCreator* const creators[] = {&creator};
    count = 1;
    return creators;
}
