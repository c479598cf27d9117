// The part of TensorRT 8's C++ interface that a plugin with dynamic shapes implements. The wheels of TensorRT come
// without headers, so this stands in for NvInferRuntime.h: the classes here have its virtual functions in its order,
// and nothing else of it. It holds for TensorRT 8.5 and 8.6 alone; `Dims` has other members from 10 on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>

struct cudnnContext;
struct cublasContext;

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1 };
enum class TensorFormat : int32_t { kLINEAR = 0 };
enum class PluginFieldType : int32_t { kFLOAT32 = 1, kINT32 = 5 };

struct Dims {
    int32_t nbDims;
    int32_t d[8];
};

class IDimensionExpr;
class IExprBuilder;
class IGpuAllocator;

struct DimsExprs {
    int32_t nbDims;
    IDimensionExpr const* d[8];
};

struct PluginTensorDesc {
    Dims dims;
    DataType type;
    TensorFormat format;
    float scale;
};

struct DynamicPluginTensorDesc {
    PluginTensorDesc desc;
    Dims min;
    Dims max;
};

struct PluginField {
    char const* name;
    void const* data;
    PluginFieldType type;
    int32_t length;
};

struct PluginFieldCollection {
    int32_t nbFields;
    PluginField const* fields;
};

constexpr int32_t kVERSION = 8600; // what the library that is built against says that it was built against
constexpr int32_t kDYNAMIC_EXT = 3 << 24;

class IPluginV2 {
public:
    virtual int32_t getTensorRTVersion() const noexcept { return kVERSION | kDYNAMIC_EXT; }
    virtual char const* getPluginType() const noexcept = 0;
    virtual char const* getPluginVersion() const noexcept = 0;
    virtual int32_t getNbOutputs() const noexcept = 0;
    virtual Dims getOutputDimensions(int32_t, Dims const*, int32_t) noexcept { return Dims{-1, {}}; }
    virtual bool supportsFormat(DataType, TensorFormat) const noexcept { return false; }
    virtual void configureWithFormat(Dims const*, int32_t, Dims const*, int32_t, DataType, TensorFormat,
                                     int32_t) noexcept {}
    virtual int32_t initialize() noexcept = 0;
    virtual void terminate() noexcept = 0;
    virtual size_t getWorkspaceSize(int32_t) const noexcept { return 0; }
    virtual int32_t enqueue(int32_t, void const* const*, void* const*, void*, cudaStream_t) noexcept { return 1; }
    virtual size_t getSerializationSize() const noexcept = 0;
    virtual void serialize(void* buffer) const noexcept = 0;
    virtual void destroy() noexcept = 0;
    virtual IPluginV2* clone() const noexcept = 0;
    virtual void setPluginNamespace(char const* name) noexcept = 0;
    virtual char const* getPluginNamespace() const noexcept = 0;
    virtual ~IPluginV2() noexcept = default;
};

class IPluginV2Ext : public IPluginV2 {
public:
    virtual DataType getOutputDataType(int32_t index, DataType const* types, int32_t count) const noexcept = 0;
    virtual bool isOutputBroadcastAcrossBatch(int32_t, bool const*, int32_t) const noexcept { return false; }
    virtual bool canBroadcastInputAcrossBatch(int32_t) const noexcept { return false; }
    virtual void configurePlugin(Dims const*, int32_t, Dims const*, int32_t, DataType const*, DataType const*,
                                 bool const*, bool const*, TensorFormat, int32_t) noexcept {}
    virtual void attachToContext(cudnnContext*, cublasContext*, IGpuAllocator*) noexcept {}
    virtual void detachFromContext() noexcept {}
};

class IPluginV2DynamicExt : public IPluginV2Ext {
public:
    virtual DimsExprs getOutputDimensions(int32_t index, DimsExprs const* inputs, int32_t count,
                                          IExprBuilder& builder) noexcept = 0;
    virtual bool supportsFormatCombination(int32_t position, PluginTensorDesc const* tensors, int32_t inputs,
                                           int32_t outputs) noexcept = 0;
    virtual void configurePlugin(DynamicPluginTensorDesc const* in, int32_t inputs, DynamicPluginTensorDesc const* out,
                                 int32_t outputs) noexcept = 0;
    virtual size_t getWorkspaceSize(PluginTensorDesc const* in, int32_t inputs, PluginTensorDesc const* out,
                                    int32_t outputs) const noexcept = 0;
    virtual int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const* out, void const* const* inputs,
                            void* const* outputs, void* workspace, cudaStream_t stream) noexcept = 0;
};

class IPluginCreator {
public:
    virtual int32_t getTensorRTVersion() const noexcept { return kVERSION; }
    virtual char const* getPluginName() const noexcept = 0;
    virtual char const* getPluginVersion() const noexcept = 0;
    virtual PluginFieldCollection const* getFieldNames() noexcept = 0;
    virtual IPluginV2* createPlugin(char const* name, PluginFieldCollection const* fields) noexcept = 0;
    virtual IPluginV2* deserializePlugin(char const* name, void const* data, size_t length) noexcept = 0;
    virtual void setPluginNamespace(char const* name) noexcept = 0;
    virtual char const* getPluginNamespace() const noexcept = 0;
    virtual ~IPluginCreator() = default;
};

class ILoggerFinder;

} // namespace nvinfer1
