#!/usr/bin/env python3
"""Kernels compiled by NVRTC, run by the emulated driver, held against numpy.

Use: eval "$(tools/cudaemu/setup.sh)"; "$CUDAEMU/../venv/bin/python" tools/cudaemu/selftest.py
"""
import ctypes, os, sys
import numpy as np
import selftest_lib
from selftest_lib import call, check, compile_ptx, cu, run

rng = np.random.default_rng(0)
N = 1000
x, y = rng.standard_normal(N).astype(np.float32), rng.standard_normal(N).astype(np.float32)
o = np.zeros(N, np.float32)
run('extern "C" __global__ void k(const float*a,const float*b,float*o,int n){int i=blockIdx.x*blockDim.x+threadIdx.x;if(i<n)o[i]=a[i]*b[i]+1.f;}', (8,), (128,), [x, y, o], [N])
check("multiply and add", o, x * y + 1, 1e-6)

run('extern "C" __global__ void k(const float*a,const float*b,float*o,int n){int i=blockIdx.x*blockDim.x+threadIdx.x;if(i>=n)return;float v=a[i];o[i]=v>0?expf(v)+erff(b[i])+tanhf(v):logf(1.f-v)+sinf(b[i])*cosf(v)+sqrtf(-v)+1/(1+b[i]*b[i]);}', (8,), (128,), [x, y, o], [N])
import math
erf = np.vectorize(math.erf)
with np.errstate(all="ignore"):
    want = np.where(x > 0, np.exp(x) + erf(y) + np.tanh(x), np.log(1 - x) + np.sin(y) * np.cos(x) + np.sqrt(-x) + 1 / (1 + y * y))
check("functions, divergent branches", o, want, 1e-6)

s = np.zeros(8, np.float32)
run('''extern "C" __global__ void k(const float*a,float*o,int n){__shared__ float w[32];int i=blockIdx.x*256+threadIdx.x;float v=i<n?a[i]:0;
for(int d=16;d;d/=2)v+=__shfl_xor_sync(~0u,v,d);if(threadIdx.x%32==0)w[threadIdx.x/32]=v;__syncthreads();
if(threadIdx.x<8){v=w[threadIdx.x];for(int d=4;d;d/=2)v+=__shfl_down_sync(0xff,v,d,8);if(threadIdx.x==0)o[blockIdx.x]=v;}}''', (4,), (256,), [x, s], [N])
check("reduction: shuffles, shared memory", s[:4], [x[i * 256:(i + 1) * 256].sum() for i in range(4)], 1e-5)

c = np.zeros(16, np.int32)
v = rng.integers(0, 16, N).astype(np.int32)
run('extern "C" __global__ void k(const int*a,int*o,int n){int i=blockIdx.x*blockDim.x+threadIdx.x;if(i<n)atomicAdd(o+a[i],1);}', (8,), (128,), [v, c], [N])
check("atomics", c, np.bincount(v, minlength=16))

f = np.zeros(4, np.float32)
run('extern "C" __global__ void k(const float*a,float*o,int n){int i=blockIdx.x*blockDim.x+threadIdx.x;if(i<n)atomicAdd(o+i%4,a[i]);}', (8,), (128,), [x, f], [N])
check("float atomics", f, [x[i::4].sum() for i in range(4)], 1e-5)

t = rng.standard_normal((48, 80)).astype(np.float32)
u = np.zeros((80, 48), np.float32)
run('''extern "C" __global__ void k(const float*a,float*o,int r,int c){__shared__ float t[16][17];int x=blockIdx.x*16+threadIdx.x,y=blockIdx.y*16+threadIdx.y;t[threadIdx.y][threadIdx.x]=a[y*c+x];__syncthreads();
x=blockIdx.y*16+threadIdx.x;y=blockIdx.x*16+threadIdx.y;o[y*r+x]=t[threadIdx.x][threadIdx.y];}''', (5, 3), (16, 16), [t, u], [48, 80])
check("transpose", u, t.T)

h = rng.standard_normal(512).astype(np.float16)
g = np.zeros(512, np.float16)
run('''#include <cuda_fp16.h>
extern "C" __global__ void k(const __half*a,__half*o){int i=threadIdx.x;__half2 v=((const __half2*)a)[i];v=__hfma2(v,v,__float2half2_rn(.5f));((__half2*)o)[i]=h2exp2(__hmul2(v,__float2half2_rn(.25f)));}''', (1,), (256,), [h, g])
hf = (h.astype(np.float32) ** 2 + .5).astype(np.float16).astype(np.float32)
check("pairs of f16", g, np.exp2((hf * .25).astype(np.float16).astype(np.float32)), 2e-3)

# mma.sync m16n8k16 by ldmatrix from shared memory, asynchronously copied
A, B = rng.standard_normal((16, 16)).astype(np.float16), rng.standard_normal((16, 8)).astype(np.float16)
D = np.zeros((16, 8), np.float32)
run('''extern "C" __global__ void k(const unsigned short*a,const unsigned short*b,float*d){__shared__ __align__(16) unsigned short s[16*16+16*8];int l=threadIdx.x;
unsigned sa=(unsigned)__cvta_generic_to_shared(s);
asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"::"r"(sa+l*16),"l"(a+l*8));
if(l<16)asm volatile("cp.async.ca.shared.global [%0], [%1], 16;"::"r"(sa+512+l*16),"l"(b+l*8));
asm volatile("cp.async.commit_group;\\ncp.async.wait_group 0;\\n");__syncwarp();
unsigned x[4],y[2];
asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];":"=r"(x[0]),"=r"(x[1]),"=r"(x[2]),"=r"(x[3]):"r"(sa+(l%16)*32+(l/16)*16));
asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];":"=r"(y[0]),"=r"(y[1]):"r"(sa+512+(l%16)*16));
float c[4]={1,1,1,1};
asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};":"+f"(c[0]),"+f"(c[1]),"+f"(c[2]),"+f"(c[3]):"r"(x[0]),"r"(x[1]),"r"(x[2]),"r"(x[3]),"r"(y[0]),"r"(y[1]));
int g=l/4,t=l%4;d[g*8+t*2]=c[0];d[g*8+t*2+1]=c[1];d[(g+8)*8+t*2]=c[2];d[(g+8)*8+t*2+1]=c[3];}''', (1,), (32,), [A, B, D])
check("cp.async, ldmatrix, mma m16n8k16", D, A.astype(np.float32) @ B.astype(np.float32) + 1, 1e-5)

A, B = rng.standard_normal((16, 16)).astype(np.float16), rng.standard_normal((16, 16)).astype(np.float16)
D = np.zeros((16, 16), np.float32)
run('''#include <mma.h>
using namespace nvcuda::wmma;
extern "C" __global__ void k(const __half*a,const __half*b,float*d){fragment<matrix_a,16,16,16,__half,row_major>x;fragment<matrix_b,16,16,16,__half,col_major>y;fragment<accumulator,16,16,16,float>c;
fill_fragment(c,2.f);load_matrix_sync(x,a,16);load_matrix_sync(y,b,16);mma_sync(c,x,y,c);store_matrix_sync(d,c,16,mem_row_major);}''', (1,), (32,), [A, B, D])
check("wmma 16x16x16", D, A.astype(np.float32) @ B.astype(np.float32).T + 2, 1e-5)

# A missing wait must show: the copy has not happened yet.
A = np.ones(128, np.float32)
o = np.zeros(128, np.float32)
wait = '''extern "C" __global__ void k(const float*a,float*o){__shared__ __align__(16) float s[128];int l=threadIdx.x;s[l*4]=s[l*4+1]=s[l*4+2]=s[l*4+3]=-1;unsigned p=(unsigned)__cvta_generic_to_shared(s);__syncwarp();
asm volatile("cp.async.cg.shared.global [%%0], [%%1], 16;\\ncp.async.commit_group;"::"r"(p+l*16),"l"(a+l*4):"memory");%s __syncwarp();for(int j=0;j<4;j++)o[l*4+j]=s[l*4+j];}'''
run(wait % "", (1,), (32,), [A, o])
check("a missing cp.async wait shows", o, -A)
run(wait % 'asm volatile("cp.async.wait_all;":::"memory");', (1,), (32,), [A, o])
check("cp.async.wait_all", o, A)

# mbarrier and a bulk copy
A = rng.standard_normal(256).astype(np.float32)
o = np.zeros(256, np.float32)
run('''extern "C" __global__ void k(const float*a,float*o){__shared__ __align__(128) float s[256];__shared__ __align__(8) unsigned long long bar;unsigned p=(unsigned)__cvta_generic_to_shared(s),m=(unsigned)__cvta_generic_to_shared(&bar);
if(threadIdx.x==0){asm volatile("mbarrier.init.shared.b64 [%0], 1;"::"r"(m));}
__syncthreads();
if(threadIdx.x==0){asm volatile("{.reg .b64 st;\\nmbarrier.arrive.expect_tx.shared.b64 st, [%0], 1024;}"::"r"(m):"memory");
asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 1024, [%2];"::"r"(p),"l"(a),"r"(m):"memory");}
asm volatile("{.reg .pred q;\\nW: mbarrier.try_wait.parity.shared.b64 q, [%0], 0;\\n@q bra D;\\nbra W;\\nD: }"::"r"(m):"memory");
o[threadIdx.x]=s[threadIdx.x];}''', (1,), (256,), [A, o])
check("mbarrier, bulk copy", o, A)

# Races are looked for where CUDAEMU_RACES is set when the driver is loaded: in a process of its own.
if os.environ.get("CUDAEMU_RACES") == "1":
    shift = 'extern "C" __global__ void k(const float*a,float*o){__shared__ float s[128];s[threadIdx.x]=a[threadIdx.x];%s o[threadIdx.x]=s[(threadIdx.x+%d)%%128];}'
    A, o = rng.standard_normal(128).astype(np.float32), np.zeros(128, np.float32)
    run(shift % ("__syncthreads();", 32), (1,), (128,), [A, o])
    check("with a barrier no race", o, np.roll(A, -32))
    try:
        run(shift % ("", 96), (1,), (128,), [A, o])
        sys.exit("BAD  a missing barrier was not seen")
    except AssertionError:
        print("ok  a missing barrier is a race")
        print(f"{selftest_lib.passed + 1} passed, 0 failed")
        sys.exit()
else:
    import subprocess
    subprocess.run([sys.executable, __file__], env={**os.environ, "CUDAEMU_RACES": "1"}, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print("ok  races: nothing found where there is none, a missing barrier found")
    selftest_lib.passed += 1

# Outside of memory is a fault, and poisons the device: last.
bad = 'extern "C" __global__ void k(float*o){o[1<<20]=1;}'
module, function = ctypes.c_void_p(), ctypes.c_void_p()
call("cuModuleLoadData", ctypes.byref(module), compile_ptx(bad))
call("cuModuleGetFunction", ctypes.byref(function), module, b"k")
d = ctypes.c_uint64()
call("cuMemAlloc_v2", ctypes.byref(d), ctypes.c_size_t(4096))
table = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(d), ctypes.c_void_p))
assert cu.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, table, None) == 719
print(f"ok  a store outside of memory faults\n{selftest_lib.passed + 1} passed, 0 failed")
