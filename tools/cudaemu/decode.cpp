// The instructions: what each does to the lanes of a warp.
#include "ptx.h"
#include <algorithm>
#include <functional>

using Parts = std::vector<std::string>;
static bool has(const Parts& p, const char* s) { return std::find(p.begin(), p.end(), s) != p.end(); }

template<class F> static inline void lanes(u32 mask, F f) {
    if (mask == ~0u) { for (u32 l = 0; l < 32; l++) f(l); }
    else EACH_LANE(l, mask) f(l);
}

// ---------------------------------------------------------------------------------------------------------------- arithmetic
struct Add { template<class T> static T f(T a, T b) { return T(a + b); } };
struct Sub { template<class T> static T f(T a, T b) { return T(a - b); } };
struct Mul { template<class T> static T f(T a, T b) { return T(a * b); } };
struct Div { template<class T> static T f(T a, T b) { if constexpr (!is_float<T>) { if (b == 0) return T(-1); if (std::is_signed_v<T> && b == T(-1)) return T(0 - a); } return T(a / b); } };
struct Rem { template<class T> static T f(T a, T b) { if constexpr (is_float<T>) return T(std::fmod((float)a, (float)b)); else { if (b == 0) return a; if (std::is_signed_v<T> && b == T(-1)) return 0; return T(a % b); } } };
struct Min { template<class T> static T f(T a, T b) { if constexpr (is_float<T>) { if (a != a) return b; if (b != b) return a; } return a < b ? a : b; } };
struct Max { template<class T> static T f(T a, T b) { if constexpr (is_float<T>) { if (a != a) return b; if (b != b) return a; } return a > b ? a : b; } };
struct MinNan { template<class T> static T f(T a, T b) { if (a != a) return a; if (b != b) return b; return a < b ? a : b; } };
struct MaxNan { template<class T> static T f(T a, T b) { if (a != a) return a; if (b != b) return b; return a > b ? a : b; } };
struct MulHi { template<class T> static T f(T a, T b) {
    if constexpr (sizeof(T) == 8) { if constexpr (std::is_signed_v<T>) return T(((__int128)a * b) >> 64); else return T(((unsigned __int128)a * b) >> 64); }
    else { using W = std::conditional_t<std::is_signed_v<T>, i64, u64>; return T(((W)a * (W)b) >> (8 * sizeof(T))); } } };
struct And { template<class T> static T f(T a, T b) { return T(a & b); } };
struct Or { template<class T> static T f(T a, T b) { return T(a | b); } };
struct Xor { template<class T> static T f(T a, T b) { return T(a ^ b); } };
struct Copysign { template<class T> static T f(T a, T b) { return std::copysign(b, a); } };

template<class T, class Op> static void binary(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]); const T* b = w.reg<T>(i.o[2]);
    lanes(m, [&](u32 l) { d[l] = Op::f(a[l], b[l]); });
}
template<class T, class Op> static void binary_pair(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]); const T* b = w.reg<T>(i.o[2]);
    lanes(m, [&](u32 l) { d[2 * l] = Op::f(a[2 * l], b[2 * l]); d[2 * l + 1] = Op::f(a[2 * l + 1], b[2 * l + 1]); });
}
template<class Op> static Exec binary_for(const std::string& t, bool& ok) {
    ok = true;
    if (t == "u16" || t == "b16") return binary<u16, Op>;
    if (t == "s16") return binary<i16, Op>;
    if (t == "u32" || t == "b32") return binary<u32, Op>;
    if (t == "s32") return binary<i32, Op>;
    if (t == "u64" || t == "b64") return binary<u64, Op>;
    if (t == "s64") return binary<i64, Op>;
    ok = false; return nullptr;
}
template<class Op> static Exec float_for(const std::string& t, bool& ok) {
    ok = true;
    if (t == "f32") return binary<float, Op>;
    if (t == "f64") return binary<double, Op>;
    if (t == "f16") return binary<f16, Op>;
    if (t == "bf16") return binary<bf16, Op>;
    if (t == "f16x2") return binary_pair<f16, Op>;
    if (t == "bf16x2") return binary_pair<bf16, Op>;
    ok = false; return nullptr;
}
template<class Op> static Exec number_for(const std::string& t, bool& ok) {
    Exec e = binary_for<Op>(t, ok);
    return ok ? e : float_for<Op>(t, ok);
}

template<class D, class S> static void mul_wide(Warp& w, const Inst& i, u32 m) {
    D* d = w.reg<D>(i.o[0]); const S* a = w.reg<S>(i.o[1]); const S* b = w.reg<S>(i.o[2]);
    lanes(m, [&](u32 l) { d[l] = D(D(a[l]) * D(b[l])); });
}
template<class D, class S> static void mad_wide(Warp& w, const Inst& i, u32 m) {
    D* d = w.reg<D>(i.o[0]); const S* a = w.reg<S>(i.o[1]); const S* b = w.reg<S>(i.o[2]); const D* c = w.reg<D>(i.o[3]);
    lanes(m, [&](u32 l) { d[l] = D(D(a[l]) * D(b[l]) + c[l]); });
}
template<class T> static void mad_lo(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]); const T* b = w.reg<T>(i.o[2]); const T* c = w.reg<T>(i.o[3]);
    lanes(m, [&](u32 l) { d[l] = T(a[l] * b[l] + c[l]); });
}
template<class T> static void mad_hi(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]); const T* b = w.reg<T>(i.o[2]); const T* c = w.reg<T>(i.o[3]);
    lanes(m, [&](u32 l) { d[l] = T(MulHi::f(a[l], b[l]) + c[l]); });
}
template<class T> static void fma_(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]); const T* b = w.reg<T>(i.o[2]); const T* c = w.reg<T>(i.o[3]);
    const bool relu = i.a;
    lanes(m, [&](u32 l) { T r = fused(a[l], b[l], c[l]); d[l] = relu && r < T(0.0f) ? T(0.0f) : r; });
}
template<class T> static void fma_pair(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]); const T* b = w.reg<T>(i.o[2]); const T* c = w.reg<T>(i.o[3]);
    lanes(m, [&](u32 l) { for (u32 x = 2 * l; x < 2 * l + 2; x++) d[x] = fused(a[x], b[x], c[x]); });
}

// Directed rounding of f32: computed in double, then rounded once more.
static float directed(double v, Round r) {
    float f = (float)v;
    if (f != f || r == RN || (double)f == v) return f;
    if (r == RZ) return std::fabs((double)f) > std::fabs(v) ? std::nextafterf(f, 0) : f;
    if (r == RM) return (double)f > v ? std::nextafterf(f, -INFINITY) : f;
    return (double)f < v ? std::nextafterf(f, INFINITY) : f;
}
static void directed_f32(Warp& w, const Inst& i, u32 m) {  // a: 0 add, 1 sub, 2 mul, 3 fma; b: rounding
    float* d = w.reg<float>(i.o[0]); const float *a = w.reg<float>(i.o[1]), *b = w.reg<float>(i.o[2]), *c = w.reg<float>(i.o.back());
    lanes(m, [&](u32 l) {
        double x = a[l], y = b[l], v = i.a == 0 ? x + y : i.a == 1 ? x - y : i.a == 2 ? x * y : std::fma(x, y, (double)c[l]);
        d[l] = directed(v, (Round)i.b);
    });
}

// Unary functions of floats, computed in double and rounded once.
enum { ABS, NEG, RCP, SQRT, RSQRT, EX2, LG2, SIN, COS, TANH };
template<class T> static void unary(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]);
    const u32 times = i.b;
    lanes(m, [&](u32 l) {
        for (u32 x = times * l; x < times * (l + 1); x++) {
            double v = std::is_same_v<T, double> ? (double)a[x] : (double)(float)a[x], r = 0;
            switch (i.a) {
                case ABS: r = std::fabs(v); break;
                case NEG: r = -v; break;
                case RCP: r = 1 / v; break;
                case SQRT: r = std::sqrt(v); break;
                case RSQRT: r = 1 / std::sqrt(v); break;
                case EX2: r = std::is_same_v<T, double> ? std::exp2(v) : std::exp2((float)v); break;
                case LG2: r = std::log2(v); break;
                case SIN: r = std::sin(v); break;
                case COS: r = std::cos(v); break;
                case TANH: r = std::tanh(v); break;
            }
            d[x] = T(r);
        }
    });
}
template<class T> static void integer_unary(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]);
    lanes(m, [&](u32 l) { d[l] = i.a == NEG ? T(0 - a[l]) : a[l] < T(0) ? T(0 - a[l]) : a[l]; });
}
template<class T> static void not_(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]);
    lanes(m, [&](u32 l) { d[l] = T(~a[l]); });
}
template<class T, bool Left> static void shift(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]); const u32* b = w.reg<u32>(i.o[2]);
    constexpr u32 n = 8 * sizeof(T);
    lanes(m, [&](u32 l) {
        u32 s = b[l];
        if (Left) d[l] = s >= n ? T(0) : T(a[l] << s);
        else d[l] = s >= n ? (std::is_signed_v<T> && a[l] < T(0) ? T(-1) : T(0)) : T(a[l] >> s);
    });
}
template<bool Left> static void funnel(Warp& w, const Inst& i, u32 m) {
    u32* d = w.reg<u32>(i.o[0]); const u32 *a = w.reg<u32>(i.o[1]), *b = w.reg<u32>(i.o[2]), *c = w.reg<u32>(i.o[3]);
    lanes(m, [&](u32 l) {
        u32 s = i.a ? c[l] & 31 : std::min(c[l], 32u);
        u64 v = (u64)b[l] << 32 | a[l];
        d[l] = Left ? (s == 0 ? b[l] : (u32)(v << s >> 32)) : s == 32 ? b[l] : (u32)(v >> s);
        if (Left && s == 32) d[l] = a[l];
    });
}
static void lop3(Warp& w, const Inst& i, u32 m) {
    u32* d = w.reg<u32>(i.o[0]); const u32 *a = w.reg<u32>(i.o[1]), *b = w.reg<u32>(i.o[2]), *c = w.reg<u32>(i.o[3]);
    lanes(m, [&](u32 l) {
        u32 r = 0;
        for (u32 k = 0; k < 8; k++) if (i.a >> k & 1) r |= (k & 4 ? a[l] : ~a[l]) & (k & 2 ? b[l] : ~b[l]) & (k & 1 ? c[l] : ~c[l]);
        d[l] = r;
    });
}
static void prmt(Warp& w, const Inst& i, u32 m) {
    u32* d = w.reg<u32>(i.o[0]); const u32 *a = w.reg<u32>(i.o[1]), *b = w.reg<u32>(i.o[2]), *c = w.reg<u32>(i.o[3]);
    lanes(m, [&](u32 l) {
        u64 v = (u64)b[l] << 32 | a[l];
        u32 r = 0;
        for (int k = 0; k < 4; k++) {
            u32 s = c[l] >> (4 * k) & 15, byte = (u32)(v >> (8 * (s & 7))) & 255;
            if (s & 8) byte = byte & 128 ? 255 : 0;
            r |= byte << (8 * k);
        }
        d[l] = r;
    });
}
template<class T> static void bfe(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]); const u32 *p = w.reg<u32>(i.o[2]), *n = w.reg<u32>(i.o[3]);
    using U = std::make_unsigned_t<T>;
    constexpr u32 size = 8 * sizeof(T);
    lanes(m, [&](u32 l) {
        u32 pos = p[l] & 255, len = n[l] & 255;
        if (!len) { d[l] = 0; return; }
        if (pos >= size) { d[l] = std::is_signed_v<T> && a[l] < T(0) ? T(-1) : T(0); return; }
        len = std::min(len, size - pos);
        U v = U(a[l]) << (size - pos - len);
        d[l] = std::is_signed_v<T> ? T(T(v) >> (size - len)) : T(v >> (size - len));
    });
}
template<class T> static void bfi(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T *a = w.reg<T>(i.o[1]), *b = w.reg<T>(i.o[2]); const u32 *p = w.reg<u32>(i.o[3]), *n = w.reg<u32>(i.o[4]);
    constexpr u32 size = 8 * sizeof(T);
    lanes(m, [&](u32 l) {
        u32 pos = p[l] & 255, len = std::min(n[l] & 255, size);
        if (pos >= size || !len) { d[l] = b[l]; return; }
        T mask = T((len == size ? T(~T(0)) : T((T(1) << len) - 1)) << pos);
        d[l] = T((T(a[l] << pos) & mask) | (b[l] & ~mask));
    });
}
enum { POPC, CLZ, BREV, BFIND };
template<class T> static void bit_count(Warp& w, const Inst& i, u32 m) {
    u32* d = w.reg<u32>(i.o[0]); const T* a = w.reg<T>(i.o[1]);
    constexpr u32 size = 8 * sizeof(T);
    lanes(m, [&](u32 l) {
        u64 v = (u64)(std::make_unsigned_t<T>)a[l];
        if (i.a == BFIND && std::is_signed_v<T> && a[l] < T(0)) v = (u64)(std::make_unsigned_t<T>)~a[l];
        if (i.a == POPC) d[l] = (u32)__builtin_popcountll(v);
        else if (i.a == CLZ) d[l] = v ? (u32)__builtin_clzll(v) - (64 - size) : size;
        else d[l] = v ? 63 - (u32)__builtin_clzll(v) : ~0u;
    });
}
template<class T> static void brev(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]);
    lanes(m, [&](u32 l) { T r = 0; for (u32 k = 0; k < 8 * sizeof(T); k++) if (a[l] >> k & 1) r |= T(1) << (8 * sizeof(T) - 1 - k); d[l] = r; });
}
// add.cc, addc and their like: the carry is a register of the warp (o[3]).
template<class T> static void carry(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T *a = w.reg<T>(i.o[1]), *b = w.reg<T>(i.o[2]);
    u32* cc = w.reg<u32>(i.o[3]);
    const bool take = i.a & 1, set = i.a & 2, minus = i.a & 4;
    lanes(m, [&](u32 l) {
        u32 in = take ? *cc >> l & 1 : 0;
        unsigned __int128 r = minus ? (unsigned __int128)a[l] - b[l] - in : (unsigned __int128)a[l] + b[l] + in;
        d[l] = (T)r;
        if (set) *cc = (*cc & ~(1u << l)) | ((u32)(r >> (8 * sizeof(T))) & 1) << l;
    });
}

// mad.cc and madc: one half of a product, with the same carry (o[4]).
template<class T> static void mad_carry(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T *a = w.reg<T>(i.o[1]), *b = w.reg<T>(i.o[2]), *c = w.reg<T>(i.o[3]);
    u32* cc = w.reg<u32>(i.o[4]);
    const bool take = i.a & 1, set = i.a & 2, high = i.a & 4;
    lanes(m, [&](u32 l) {
        unsigned __int128 product = (unsigned __int128)a[l] * b[l];
        T half = high ? (T)(product >> (8 * sizeof(T))) : (T)product;
        unsigned __int128 r = (unsigned __int128)half + c[l] + (take ? *cc >> l & 1 : 0);
        d[l] = (T)r;
        if (set) *cc = (*cc & ~(1u << l)) | ((u32)(r >> (8 * sizeof(T))) & 1) << l;
    });
}

// ---------------------------------------------------------------------------------------------------------------- predicates
enum Cmp { EQ, NE, LT, LE, GT, GE, EQU, NEU, LTU, LEU, GTU, GEU, NUM, NAN_ };
template<class T> static inline bool compare(Cmp c, T a, T b) {
    bool nan = false;
    if constexpr (is_float<T>) nan = a != a || b != b;
    switch (c) {
        case EQ: return a == b;
        case NE: return !nan && a != b;
        case LT: return a < b;
        case LE: return a <= b;
        case GT: return a > b;
        case GE: return a >= b;
        case EQU: return nan || a == b;
        case NEU: return nan || a != b;
        case LTU: return nan || a < b;
        case LEU: return nan || a <= b;
        case GTU: return nan || a > b;
        case GEU: return nan || a >= b;
        case NUM: return !nan;
        case NAN_: return nan;
    }
    return false;
}
// o: p, q, a, b, c; a: comparison, b: how c is joined (0 not, 1 and, 2 or, 3 xor), d: c is negated
template<class T> static void setp(Warp& w, const Inst& i, u32 m) {
    const T* a = w.reg<T>(i.o[2]); const T* b = w.reg<T>(i.o[3]);
    u32 r = 0;
    const Cmp c = (Cmp)i.a;
    lanes(m, [&](u32 l) { r |= (u32)compare<T>(c, a[l], b[l]) << l; });
    u32 q = ~r;
    if (i.b) {
        u32 x = *w.reg<u32>(i.o[4]);
        if (i.d) x = ~x;
        if (i.b == 1) { r &= x; q &= x; } else if (i.b == 2) { r |= x; q |= x; } else { r ^= x; q ^= x; }
    }
    u32* p = w.reg<u32>(i.o[0]);
    *p = (*p & ~m) | (r & m);
    if (i.o[1] >= 0) { u32* p2 = w.reg<u32>(i.o[1]); *p2 = (*p2 & ~m) | (q & m); }
}
template<class T> static void setp_pair(Warp& w, const Inst& i, u32 m) {
    const T* a = w.reg<T>(i.o[2]); const T* b = w.reg<T>(i.o[3]);
    u32 r = 0, q = 0;
    const Cmp c = (Cmp)i.a;
    lanes(m, [&](u32 l) { r |= (u32)compare<T>(c, a[2 * l], b[2 * l]) << l; q |= (u32)compare<T>(c, a[2 * l + 1], b[2 * l + 1]) << l; });
    u32* p = w.reg<u32>(i.o[0]); *p = (*p & ~m) | (r & m);
    if (i.o[1] >= 0) { u32* p2 = w.reg<u32>(i.o[1]); *p2 = (*p2 & ~m) | (q & m); }
}
template<class T, class D> static void set_(Warp& w, const Inst& i, u32 m) {
    D* d = w.reg<D>(i.o[0]); const T* a = w.reg<T>(i.o[1]); const T* b = w.reg<T>(i.o[2]);
    lanes(m, [&](u32 l) { bool r = compare<T>((Cmp)i.a, a[l], b[l]); if constexpr (is_float<D>) d[l] = D(r ? 1.0f : 0.0f); else d[l] = r ? D(-1) : D(0); });
}
static void pred_logic(Warp& w, const Inst& i, u32 m) {
    u32 a = *w.reg<u32>(i.o[1]), b = *w.reg<u32>(i.o[2]), r = 0;
    if (i.b) a = ~a;
    if (i.c) b = ~b;
    switch (i.a) { case 0: r = a & b; break; case 1: r = a | b; break; case 2: r = a ^ b; break; case 3: r = ~a; break; case 4: r = a; break; }
    u32* d = w.reg<u32>(i.o[0]);
    *d = (*d & ~m) | (r & m);
}
template<class T> static void selp(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T *a = w.reg<T>(i.o[1]), *b = w.reg<T>(i.o[2]);
    u32 p = *w.reg<u32>(i.o[3]);
    if (i.a) p = ~p;
    lanes(m, [&](u32 l) { d[l] = p >> l & 1 ? a[l] : b[l]; });
}
template<class T> static void testp(Warp& w, const Inst& i, u32 m) {
    const T* a = w.reg<T>(i.o[1]);
    u32 r = 0;
    lanes(m, [&](u32 l) {
        double v = std::is_same_v<T, double> ? (double)a[l] : (double)(float)a[l];
        bool x = i.a == 0 ? std::isfinite(v) : i.a == 1 ? std::isinf(v) : i.a == 2 ? !std::isnan(v) : i.a == 3 ? std::isnan(v) : i.a == 4 ? std::isnormal(v) : std::fpclassify(v) == FP_SUBNORMAL;
        r |= (u32)x << l;
    });
    u32* p = w.reg<u32>(i.o[0]); *p = (*p & ~m) | (r & m);
}

// ---------------------------------------------------------------------------------------------------------------- moves, conversions
struct Wide { u64 lo, hi; };
template<class T> static void mov(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]);
    lanes(m, [&](u32 l) { d[l] = a[l]; });
}
// mov with a vector on one side: a bytes in each part; b: the vector is the destination
static void mov_vector(Warp& w, const Inst& i, u32 m) {
    size_t n = i.o.size() - 1, part = i.a;
    EACH_LANE(l, m) {
        u8 buffer[16];
        if (i.b) {
            memcpy(buffer, w.regs + i.o[0] + l * n * part, n * part);
            for (size_t x = 0; x < n; x++) memcpy(w.regs + i.o[x + 1] + l * part, buffer + x * part, part);
        } else {
            for (size_t x = 0; x < n; x++) memcpy(buffer + x * part, w.regs + i.o[x + 1] + l * part, part);
            memcpy(w.regs + i.o[0] + l * n * part, buffer, n * part);
        }
    }
}
template<class D, class S> static void cvt(Warp& w, const Inst& i, u32 m) {
    const Round r = (Round)i.a;
    const bool sat = i.b;
    const u32 dw = i.w[0], sw = i.w[1];
    if (dw == sizeof(D) && sw == sizeof(S)) {
        D* d = w.reg<D>(i.o[0]); const S* a = w.reg<S>(i.o[1]);
        lanes(m, [&](u32 l) { d[l] = convert<D, S>(a[l], r, sat); });
        return;
    }
    EACH_LANE(l, m) {
        S s; memcpy(&s, w.regs + i.o[1] + l * sw, sizeof(S));
        D v = convert<D, S>(s, r, sat);
        u64 x = 0;
        memcpy(&x, &v, sizeof(D));
        if constexpr (!is_float<D> && std::is_signed_v<D>) x = (u64)(i64)v;
        memcpy(w.regs + i.o[0] + l * dw, &x, dw);
    }
}
template<class D> static Exec cvt_from(const std::string& s) {
    if (s == "u8" || s == "b8") return cvt<D, u8>;
    if (s == "s8") return cvt<D, i8>;
    if (s == "u16") return cvt<D, u16>;
    if (s == "s16") return cvt<D, i16>;
    if (s == "u32") return cvt<D, u32>;
    if (s == "s32") return cvt<D, i32>;
    if (s == "u64") return cvt<D, u64>;
    if (s == "s64") return cvt<D, i64>;
    if (s == "f16") return cvt<D, f16>;
    if (s == "bf16") return cvt<D, bf16>;
    if (s == "f32") return cvt<D, float>;
    if (s == "f64") return cvt<D, double>;
    return nullptr;
}
template<class T> static void cvt_pack(Warp& w, const Inst& i, u32 m) {  // two floats to a pair, the first operand to the upper half
    T* d = w.reg<T>(i.o[0]); const float *a = w.reg<float>(i.o[1]), *b = w.reg<float>(i.o[2]);
    const bool relu = i.a;
    lanes(m, [&](u32 l) { float x = a[l], y = b[l]; if (relu) { x = x < 0 ? 0 : x; y = y < 0 ? 0 : y; } d[2 * l + 1] = T(x); d[2 * l] = T(y); });
}
static void cvt_tf32(Warp& w, const Inst& i, u32 m) {
    float* d = w.reg<float>(i.o[0]); const float* a = w.reg<float>(i.o[1]);
    lanes(m, [&](u32 l) { d[l] = to_tf32(a[l]); });
}

// ---------------------------------------------------------------------------------------------------------------- memory
enum { GENERIC, GLOBAL, SHARED, LOCAL, PARAM };

static inline u64 address(Warp& w, const Inst& i, int operand, u32 l) {
    int o = i.o[(size_t)operand];
    u64 base = o < 0 ? 0 : i.w[(size_t)operand] == 8 ? w.reg<u64>(o)[l] : w.reg<u32>(o)[l];
    return base + (u64)i.offset;
}
static inline u8* resolve(Warp& w, const Inst& i, u32 space, u64 a, size_t bytes, u32 l, const char* what) {
    if (a % bytes && space != PARAM) throw Fault(std::string(what) + " of " + std::to_string(bytes) + " bytes is not aligned");
    switch (space) {
        case SHARED:
            if (a + bytes > w.block->shared_bytes) throw Fault(std::string(what) + " of shared memory at " + std::to_string(a) + " of " + std::to_string(w.block->shared_bytes) + " bytes");
            return w.block->shared + a;
        case LOCAL: return w.local + l * w.block->launch->kernel->local_bytes + a;
        case PARAM: return (u8*)a;
        default: {
            u8* p = (u8*)a;
            if (space == GENERIC) {
                if (p >= w.block->shared && p + bytes <= w.block->shared + w.block->shared_bytes) return p;
                size_t lb = w.block->launch->kernel->local_bytes;
                if (lb && p >= w.local && p < w.local + 32 * lb) return p;
                if (p >= w.block->params && p + bytes <= w.block->params + w.block->launch->params.size()) return p;
            }
            if (a < w.block->cached_lo || a + bytes > w.block->cached_hi) check_global(*w.block, p, bytes, what);
            return p;
        }
    }
}
// Two warps at one word of shared memory with no barrier of the block between them, one of them writing.
static void touch(Warp& w, u64 at, size_t bytes, bool write) {
    Block& b = *w.block;
    if (b.touches.empty()) return;
    const u32 me = w.id + 1;
    for (u64 word = at / 4; word <= (at + bytes - 1) / 4; word++) {
        Touch& t = b.touches[word];
        const char* what = t.written == b.epoch && t.writer != me ? (write ? "two warps write" : "a warp reads what another writes at") : write && t.read == b.epoch && t.reader != me ? "a warp writes over what another reads at" : nullptr;
        if (what) throw Fault(std::string("race: ") + what + " byte " + std::to_string(word * 4) + " of shared memory (warps " + std::to_string(w.id) + " and " + std::to_string(int(t.written == b.epoch && t.writer != me ? t.writer : t.reader) - 1) + ") with no barrier between");
        if (write) { t.writer = me; t.written = b.epoch; }
        else if (t.read == b.epoch) t.reader = t.reader == me ? me : ~0u;
        else { t.reader = me; t.read = b.epoch; }
    }
}
static void touch_at(Warp& w, const u8* p, size_t bytes, bool write) {
    if (p >= w.block->shared && p < w.block->shared + w.block->shared_bytes) touch(w, (u64)(p - w.block->shared), bytes, write);
}
static void count_access(Warp& w, u32 space, const u64* addr, u32 m, u32 bytes, bool store) {
    if (space == SHARED) {
        u32 per = bytes >= 16 ? 8 : bytes == 8 ? 16 : 32;
        for (u32 g = 0; g < 32; g += per) {
            u64 seen[32][8]; u32 count[32] = {}; bool any = false;
            for (u32 l = g; l < g + per; l++) {
                if (!(m >> l & 1)) continue;
                any = true;
                for (u64 word = addr[l] / 4; word <= (addr[l] + bytes - 1) / 4; word++) {
                    u32 bank = word & 31; bool found = false;
                    for (u32 x = 0; x < count[bank]; x++) found |= seen[bank][x] == word;
                    if (!found && count[bank] < 8) seen[bank][count[bank]++] = word;
                }
            }
            if (!any) continue;
            w.n.shared_cycles += *std::max_element(count, count + 32);
            w.n.least_shared_cycles++;
        }
        return;
    }
    u64 sectors[32 * 2]; u32 n = 0;
    EACH_LANE(l, m) for (u64 s = addr[l] / 32; s <= (addr[l] + bytes - 1) / 32; s++) { if (n < 64) sectors[n++] = s; }
    std::sort(sectors, sectors + n);
    w.n.sectors += (u64)(std::unique(sectors, sectors + n) - sectors);
    u64 total = (u64)__builtin_popcount(m) * bytes;
    w.n.least_sectors += (total + 31) / 32;
    (store ? w.n.global_store : w.n.global_load) += total;
}
static bool counted(Warp& w, u32& space, u64 a) {
    if (space == GENERIC) space = (u8*)a >= w.block->shared && (u8*)a < w.block->shared + w.block->shared_bytes ? SHARED : GLOBAL;
    return space == GLOBAL || space == SHARED;
}

// o: registers..., address last; a: space, b: bytes of an element, c: registers, d: sign-extend
template<u32 S> static void load(Warp& w, const Inst& i, u32 m) {
    const u32 n = i.c, size = S ? S : i.b;
    u64 at[32];
    EACH_LANE(l, m) {
        at[l] = address(w, i, (int)n, l);
        const u8* p = resolve(w, i, i.a, at[l], n == 1 ? size : size * n, l, "a load");
        touch_at(w, p, size * n, false);
        for (u32 v = 0; v < n; v++) {
            u8* d = w.regs + i.o[v] + l * i.w[v];
            if (S && i.w[v] == S) { memcpy(d, p + v * S, S); continue; }
            u64 x = 0;
            if (size == 16) { memcpy(d, p + v * 16, 16); continue; }
            memcpy(&x, p + v * size, size);
            if (i.d) x = (u64)((i64)(x << (64 - 8 * size)) >> (64 - 8 * size));
            memcpy(d, &x, i.w[v]);
        }
    }
    u32 space = i.a;
    if (w.block->launch->profile && counted(w, space, at[__builtin_ctz(m)])) count_access(w, space, at, m, size * n, false);
}
// o: address, registers...
template<u32 S> static void store(Warp& w, const Inst& i, u32 m) {
    const u32 n = i.c, size = S ? S : i.b;
    u64 at[32];
    EACH_LANE(l, m) {
        at[l] = address(w, i, 0, l);
        u8* p = resolve(w, i, i.a, at[l], n == 1 ? size : size * n, l, "a store");
        touch_at(w, p, size * n, true);
        for (u32 v = 0; v < n; v++) memcpy(p + v * size, w.regs + i.o[v + 1] + l * i.w[v + 1], size);
    }
    u32 space = i.a;
    if (w.block->launch->profile && counted(w, space, at[__builtin_ctz(m)])) count_access(w, space, at, m, size * n, true);
}
// cvta: a: space, b: to that space (from generic)
static void cvta(Warp& w, const Inst& i, u32 m) {
    EACH_LANE(l, m) {
        u64 v = i.w[1] == 8 ? w.reg<u64>(i.o[1])[l] : w.reg<u32>(i.o[1])[l];
        u64 base = i.a == SHARED ? (u64)(uintptr_t)w.block->shared : i.a == LOCAL ? (u64)(uintptr_t)(w.local + l * w.block->launch->kernel->local_bytes) : 0;
        v = i.b ? v - base : v + base;
        if (i.w[0] == 8) w.reg<u64>(i.o[0])[l] = v; else w.reg<u32>(i.o[0])[l] = (u32)v;
    }
}
static void isspacep(Warp& w, const Inst& i, u32 m) {
    u32 r = 0;
    EACH_LANE(l, m) {
        u8* p = (u8*)w.reg<u64>(i.o[1])[l];
        bool shared = p >= w.block->shared && p < w.block->shared + w.block->shared_bytes;
        bool local = p >= w.local && p < w.local + 32 * w.block->launch->kernel->local_bytes;
        r |= (u32)(i.a == SHARED ? shared : i.a == LOCAL ? local : !shared && !local) << l;
    }
    u32* p = w.reg<u32>(i.o[0]); *p = (*p & ~m) | (r & m);
}

enum AtomicOp { A_ADD, A_MIN, A_MAX, A_AND, A_OR, A_XOR, A_EXCH, A_CAS, A_INC, A_DEC };
template<class T> static T atomic_apply(AtomicOp op, T old, T v, T v2) {
    if constexpr (!is_float<T>) {
        switch (op) {
            case A_AND: return T(old & v);
            case A_OR: return T(old | v);
            case A_XOR: return T(old ^ v);
            case A_INC: return old >= v ? T(0) : T(old + 1);
            case A_DEC: return old == T(0) || old > v ? v : T(old - 1);
            default: break;
        }
    }
    switch (op) {
        case A_ADD: return T(old + v);
        case A_MIN: return Min::f(old, v);
        case A_MAX: return Max::f(old, v);
        case A_EXCH: return v;
        case A_CAS: return bits<std::conditional_t<sizeof(T) == 2, u16, std::conditional_t<sizeof(T) == 4, u32, u64>>>(old) == bits<std::conditional_t<sizeof(T) == 2, u16, std::conditional_t<sizeof(T) == 4, u32, u64>>>(v) ? v2 : old;
        default: throw Fault("an atomic operation that its type does not have");
    }
}
// o: destination or -1, address, value, second value; a: space, b: operation, c: elements in a register (pairs)
template<class T> static void atomic(Warp& w, const Inst& i, u32 m) {
    using U = std::conditional_t<sizeof(T) == 2, u16, std::conditional_t<sizeof(T) == 4, u32, u64>>;
    if (w.block->launch->profile) w.n.atomics += (u64)__builtin_popcount(m);
    const u32 times = i.c;
    EACH_LANE(l, m) {
        u8* p = resolve(w, i, i.a, address(w, i, 1, l), sizeof(T) * times, l, "an atomic");
        for (u32 x = 0; x < times; x++) {
            T v = w.reg<T>(i.o[2])[times * l + x], v2 = i.o.size() > 3 ? w.reg<T>(i.o[3])[times * l + x] : v;
            U* q = (U*)p + x;
            U seen = __atomic_load_n(q, __ATOMIC_RELAXED), wanted;
            do wanted = bits<U>(atomic_apply<T>((AtomicOp)i.b, bits<T>(seen), v, v2));
            while (!__atomic_compare_exchange_n(q, &seen, wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
            if (i.o[0] >= 0) w.reg<T>(i.o[0])[times * l + x] = bits<T>(seen);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------- across lanes
enum { UP, DOWN, BFLY, IDX };
static void shfl(Warp& w, const Inst& i, u32 m) {  // o: d, p, a, b, c
    u32 out[32], p = 0;
    const u32 *a = w.reg<u32>(i.o[2]), *bb = w.reg<u32>(i.o[3]), *cc = w.reg<u32>(i.o[4]);
    EACH_LANE(l, m) {
        u32 b = bb[l] & 31, c = cc[l] & 31, seg = cc[l] >> 8 & 31;
        i32 max = (i32)((l & seg) | (c & ~seg)), min = (i32)(l & seg), j = 0;
        bool ok = false;
        switch (i.a) {
            case UP: j = (i32)l - (i32)b; ok = j >= max; break;
            case DOWN: j = (i32)l + (i32)b; ok = j <= max; break;
            case BFLY: j = (i32)(l ^ b); ok = j <= max; break;
            case IDX: j = min | (i32)(b & ~seg); ok = j <= max; break;
        }
        if (!ok) j = (i32)l;
        // What a lane that does not take part would give is undefined: its own value, here.
        out[l] = m >> j & 1 ? a[j] : a[l]; p |= (u32)ok << l;
    }
    u32* d = w.reg<u32>(i.o[0]);
    EACH_LANE(l, m) d[l] = out[l];
    if (i.o[1] >= 0) { u32* q = w.reg<u32>(i.o[1]); *q = (*q & ~m) | (p & m); }
}
static void vote(Warp& w, const Inst& i, u32 m) {  // o: d, p; a: 0 all, 1 any, 2 uni, 3 ballot; b: negated
    u32 p = *w.reg<u32>(i.o[1]);
    if (i.b) p = ~p;
    p &= m;
    if (i.a == 3) { u32* d = w.reg<u32>(i.o[0]); EACH_LANE(l, m) d[l] = p; return; }
    bool r = i.a == 0 ? p == m : i.a == 1 ? p != 0 : p == 0 || p == m;
    u32* d = w.reg<u32>(i.o[0]);
    *d = r ? *d | m : *d & ~m;
}
template<class T> static void redux(Warp& w, const Inst& i, u32 m) {
    T* d = w.reg<T>(i.o[0]); const T* a = w.reg<T>(i.o[1]);
    bool first = true; T r{};
    EACH_LANE(l, m) { r = first ? a[l] : atomic_apply<T>((AtomicOp)i.b, r, a[l], a[l]); first = false; }
    EACH_LANE(l, m) d[l] = r;
}
static void match(Warp& w, const Inst& i, u32 m) {
    u32 out[32] = {};
    EACH_LANE(l, m) EACH_LANE(k, m) if (memcmp(w.regs + i.o[1] + l * i.w[1], w.regs + i.o[1] + k * i.w[1], i.w[1]) == 0) out[l] |= 1u << k;
    if (i.a) { bool all = true; EACH_LANE(l, m) all &= out[l] == m; EACH_LANE(l, m) out[l] = all ? m : 0; if (i.o.size() > 2) { u32* p = w.reg<u32>(i.o[2]); *p = all ? *p | m : *p & ~m; } }
    u32* d = w.reg<u32>(i.o[0]);
    EACH_LANE(l, m) d[l] = out[l];
}
static void activemask(Warp& w, const Inst& i, u32 m) { u32* d = w.reg<u32>(i.o[0]); EACH_LANE(l, m) d[l] = m; }
static void elect(Warp& w, const Inst& i, u32 m) {
    u32 leader = (u32)__builtin_ctz(m);
    if (i.o[0] >= 0) { u32* d = w.reg<u32>(i.o[0]); EACH_LANE(l, m) d[l] = leader; }
    u32* p = w.reg<u32>(i.o[1]); *p = (*p & ~m) | (1u << leader);
}
static void nothing(Warp&, const Inst&, u32) {}
static void trap(Warp&, const Inst&, u32) { throw Fault("the kernel trapped"); }

// ---------------------------------------------------------------------------------------------------------------- matrices
// Which element of its fragment a lane holds, as PTX lays mma's fragments out.
struct At { u32 row, col; };
static At mma_a(u32 lane, u32 x, u32 k, u32 size) {
    u32 g = lane >> 2, t = lane & 3;
    if (size == 2) return k == 8 ? At{x < 2 ? g : g + 8, t * 2 + (x & 1)} : At{(x & 2) ? g + 8 : g, t * 2 + (x & 1) + (x >= 4 ? 8 : 0)};
    if (size == 4) return k == 4 ? At{x ? g + 8 : g, t} : At{(x & 1) ? g + 8 : g, t + (x >= 2 ? 4 : 0)};
    return k == 16 ? At{x < 4 ? g : g + 8, t * 4 + (x & 3)} : At{(x & 4) ? g + 8 : g, t * 4 + (x & 3) + (x >= 8 ? 16 : 0)};
}
static At mma_b(u32 lane, u32 x, u32 size) {
    u32 g = lane >> 2, t = lane & 3;
    if (size == 2) return {t * 2 + (x & 1) + (x >= 2 ? 8 : 0), g};
    if (size == 4) return {t + (x ? 4 : 0), g};
    return {t * 4 + (x & 3) + (x >= 4 ? 16 : 0), g};
}
static At mma_c(u32 lane, u32 x) { u32 g = lane >> 2, t = lane & 3; return {x < 2 ? g : g + 8, t * 2 + (x & 1)}; }

enum Elem { E_F16, E_BF16, E_TF32, E_S8, E_U8, E_F32, E_S32, E_E4M3, E_E5M2 };
static u32 elem_size(Elem e) { return e == E_F16 || e == E_BF16 ? 2 : e == E_TF32 || e == E_F32 || e == E_S32 ? 4 : 1; }
static float fp8(u8 v, bool e4m3) {
    u32 s = v >> 7, e = e4m3 ? v >> 3 & 15 : v >> 2 & 31, f = e4m3 ? v & 7 : v & 3;
    if (e4m3 && (v & 127) == 127) return NAN;
    if (!e4m3 && e == 31) return f ? NAN : s ? -INFINITY : INFINITY;
    float r = e4m3 ? (e ? std::ldexp(1 + f / 8.0f, (int)e - 7) : std::ldexp(f / 8.0f, -6)) : (e ? std::ldexp(1 + f / 4.0f, (int)e - 15) : std::ldexp(f / 4.0f, -14));
    return s ? -r : r;
}
static float element(const u8* p, Elem e) {
    switch (e) {
        case E_F16: { f16 h; memcpy(&h, p, 2); return h; }
        case E_BF16: { bf16 h; memcpy(&h, p, 2); return h; }
        case E_TF32: { u32 x; memcpy(&x, p, 4); return bits<float>(x & ~0x1fffu); }
        case E_F32: { float f; memcpy(&f, p, 4); return f; }
        case E_S8: return (float)(i8)*p;
        case E_U8: return (float)*p;
        case E_E4M3: return fp8(*p, true);
        case E_E5M2: return fp8(*p, false);
        case E_S32: { i32 x; memcpy(&x, p, 4); return (float)x; }
    }
    return 0;
}
// The bytes of element x of a fragment spread over registers of four bytes.
static u8* piece(Warp& w, const Inst& i, u32 first, u32 lane, u32 x, u32 size) {
    u32 per = 4 / size;
    return w.regs + i.o[first + x / per] + lane * 4 + x % per * size;
}
struct MmaShape { u32 m, n, k; Elem a, b, c, d; u32 na, nb, nc, nd; };
static std::vector<MmaShape> shapes;   // by Inst::a

static void mma(Warp& w, const Inst& i, u32 mask) {
    if (mask != ~0u) throw Fault("mma without the whole warp");
    const MmaShape& s = shapes[i.a];
    static thread_local float A[16 * 32], B[32 * 8], C[16 * 8];
    u32 sa = elem_size(s.a), sb = elem_size(s.b), sc = elem_size(s.c), sd = elem_size(s.d);
    u32 a0 = s.nd, b0 = a0 + s.na, c0 = b0 + s.nb;
    for (u32 l = 0; l < 32; l++) {
        for (u32 x = 0; x < s.na * 4 / sa; x++) { At p = mma_a(l, x, s.k, sa); A[p.row * s.k + p.col] = element(piece(w, i, a0, l, x, sa), s.a); }
        for (u32 x = 0; x < s.nb * 4 / sb; x++) { At p = mma_b(l, x, sb); B[p.row * 8 + p.col] = element(piece(w, i, b0, l, x, sb), s.b); }
    }
    if (s.d == E_S32) {
        static thread_local i32 I[16 * 8];
        for (u32 l = 0; l < 32; l++) for (u32 x = 0; x < 4; x++) { At p = mma_c(l, x); memcpy(&I[p.row * 8 + p.col], piece(w, i, c0, l, x, 4), 4); }
        for (u32 r = 0; r < 16; r++) for (u32 c = 0; c < 8; c++) { i32 v = I[r * 8 + c]; for (u32 k = 0; k < s.k; k++) v += (i32)A[r * s.k + k] * (i32)B[k * 8 + c]; I[r * 8 + c] = v; }
        for (u32 l = 0; l < 32; l++) for (u32 x = 0; x < 4; x++) { At p = mma_c(l, x); memcpy(piece(w, i, 0, l, x, 4), &I[p.row * 8 + p.col], 4); }
        return;
    }
    for (u32 l = 0; l < 32; l++) for (u32 x = 0; x < 4; x++) { At p = mma_c(l, x); C[p.row * 8 + p.col] = element(piece(w, i, c0, l, x, sc), s.c); }
    for (u32 r = 0; r < 16; r++) {
        float acc[8];
        for (u32 c = 0; c < 8; c++) acc[c] = C[r * 8 + c];
        for (u32 k = 0; k < s.k; k++) { float v = A[r * s.k + k]; for (u32 c = 0; c < 8; c++) acc[c] += v * B[k * 8 + c]; }
        for (u32 c = 0; c < 8; c++) C[r * 8 + c] = acc[c];
    }
    for (u32 l = 0; l < 32; l++) for (u32 x = 0; x < 4; x++) {
        At p = mma_c(l, x);
        float v = C[p.row * 8 + p.col];
        if (sd == 2) { f16 h(v); memcpy(piece(w, i, 0, l, x, 2), &h, 2); } else memcpy(piece(w, i, 0, l, x, 4), &v, 4);
    }
}

// wmma: where a fragment's elements lie is ours to choose; element e of a matrix is the e-th of all lanes' elements, row-major,
// and whatever room is left repeats them.
struct WmmaShape { u32 m, n, k; Elem e; u32 rows, cols, regs; bool row_major, store; u32 space; };
static std::vector<WmmaShape> wshapes;
static void wmma_move(Warp& w, const Inst& i, u32 mask) {  // load: o: regs..., address, stride; store: address, regs..., stride
    if (mask != ~0u) throw Fault("wmma without the whole warp");
    const WmmaShape& s = wshapes[i.a];
    u32 size = elem_size(s.e), per_lane = s.rows * s.cols / 32, room = s.regs * 4 / size;
    u32 at = s.store ? 0 : s.regs, first = s.store ? 1 : 0, last = s.regs + 1;
    u64 base = address(w, i, (int)at, 0);
    u32 stride = w.reg<u32>(i.o[last])[0];
    u64 addr[32];
    for (u32 e = 0; e < s.rows * s.cols; e++) {
        u32 r = e / s.cols, c = e % s.cols, l = e / per_lane;
        u64 where = base + (u64)(s.row_major ? r * stride + c : c * stride + r) * size;
        u8* p = resolve(w, i, s.space, where, size, l, "wmma");
        touch_at(w, p, size, s.store);
        for (u32 x = e % per_lane; x < room; x += per_lane) {
            u8* q = piece(w, i, first, l, x, size);
            if (s.store) { memcpy(p, q, size); break; } else memcpy(q, p, size);
        }
        if (e % per_lane == 0) addr[l] = where;
    }
    u32 space = s.space;
    if (w.block->launch->profile && counted(w, space, base)) count_access(w, space, addr, ~0u, std::min(16u, per_lane * size), s.store);
}
struct WmmaMul { u32 m, n, k; Elem a, b, c, d; u32 na, nb, nc, nd; };
static std::vector<WmmaMul> wmuls;
static void wmma_mul(Warp& w, const Inst& i, u32 mask) {
    if (mask != ~0u) throw Fault("wmma without the whole warp");
    const WmmaMul& s = wmuls[i.a];
    static thread_local float A[32 * 16], B[16 * 32], C[32 * 32];
    auto each = [&](u32 rows, u32 cols, Elem e, u32 first, auto f) { u32 per = rows * cols / 32; for (u32 x = 0; x < rows * cols; x++) f(x, piece(w, i, first, x / per, x % per, elem_size(e))); };
    u32 a0 = s.nd, b0 = a0 + s.na, c0 = b0 + s.nb;
    each(s.m, s.k, s.a, a0, [&](u32 x, u8* p) { A[x] = element(p, s.a); });
    each(s.k, s.n, s.b, b0, [&](u32 x, u8* p) { B[x] = element(p, s.b); });
    each(s.m, s.n, s.c, c0, [&](u32 x, u8* p) { C[x] = element(p, s.c); });
    for (u32 r = 0; r < s.m; r++) for (u32 k = 0; k < s.k; k++) { float v = A[r * s.k + k]; for (u32 c = 0; c < s.n; c++) C[r * s.n + c] += v * B[k * s.n + c]; }
    each(s.m, s.n, s.d, 0, [&](u32 x, u8* p) { if (s.d == E_F16) { f16 h(C[x]); memcpy(p, &h, 2); } else if (s.d == E_S32) { i32 v = (i32)C[x]; memcpy(p, &v, 4); } else memcpy(p, &C[x], 4); });
    u32 room = s.nd * 4 / elem_size(s.d), per = s.m * s.n / 32;
    for (u32 l = 0; l < 32; l++) for (u32 x = per; x < room; x++) memcpy(piece(w, i, 0, l, x, elem_size(s.d)), piece(w, i, 0, l, x % per, elem_size(s.d)), elem_size(s.d));
}

// a: matrices, b: transposed, c: store; o: registers..., address (load) or address, registers... (store)
static void matrix_rows(Warp& w, const Inst& i, u32 mask) {
    if (mask != ~0u) throw Fault("ldmatrix or stmatrix without the whole warp");
    u32 first = i.c ? 1 : 0, at = i.c ? 0 : i.a;
    u64 addr[32];
    for (u32 j = 0; j < i.a; j++) {
        u8* rows[8];
        for (u32 r = 0; r < 8; r++) { addr[r] = address(w, i, (int)at, j * 8 + r); rows[r] = resolve(w, i, i.d, addr[r], 16, 0, "ldmatrix"); touch_at(w, rows[r], 16, i.c); }
        if (w.block->launch->profile) count_access(w, SHARED, addr, 0xff, 16, i.c), w.n.least_shared_cycles += 0;
        for (u32 l = 0; l < 32; l++) {
            u8* q = w.regs + i.o[first + j] + l * 4;
            for (u32 x = 0; x < 2; x++) {
                u32 row = l / 4, col = l % 4 * 2 + x;
                if (i.b) std::swap(row, col);
                if (i.c) memcpy(rows[row] + 2 * col, q + 2 * x, 2); else memcpy(q + 2 * x, rows[row] + 2 * col, 2);
            }
        }
    }
}

// wgmma: four warps, each of 16 rows of D; A from registers or shared memory, B from shared memory, by descriptors.
struct Wgmma { u32 n, k; Elem e, d; u32 nd, na; bool a_mn, b_mn; };
static std::vector<Wgmma> wgmmas;
static u64 described(u64 desc, u32 r, u32 k, u32 size, bool mn_major) {
    u64 start = (desc & 0x3fff) << 4, lbo = (desc >> 16 & 0x3fff) << 4, sbo = (desc >> 32 & 0x3fff) << 4;
    u32 layout = (u32)(desc >> 62), width = layout == 1 ? 128 : layout == 2 ? 64 : layout == 3 ? 32 : 0;
    u64 a;
    if (!width) {
        if (mn_major) a = start + r / 8 * sbo + k % 8 * 16 + k / 8 * lbo + r % 8 * size;
        else a = start + r / 8 * sbo + k * size / 16 * lbo + r % 8 * 16 + k * size % 16;
        return a;
    }
    if (mn_major) a = start + r * size / width * lbo + k / 8 * sbo + k % 8 * width + r * size % width;
    else a = start + r / 8 * sbo + r % 8 * width + k * size;
    return a ^ (a >> 7 & (width / 16 - 1)) << 4;
}
static void wgmma(Warp& w, const Inst& i, u32 mask) {  // o: D..., A (registers or one descriptor), B, scale of D; b, c: signs of A and B
    if (mask != ~0u) throw Fault("wgmma without the whole warp");
    const Wgmma& s = wgmmas[i.a];
    u32 size = elem_size(s.e), b_at = s.nd + s.na, sd = elem_size(s.d);
    static thread_local std::vector<float> A(16 * 32), B(256 * 32), C(16 * 256);
    u64 desc_b = w.reg<u64>(i.o[b_at])[0];
    bool keep = *w.reg<u32>(i.o[b_at + 1]) & 1;
    for (u32 k = 0; k < s.k; k++) for (u32 n = 0; n < s.n; n++) B[k * s.n + n] = element(resolve(w, i, SHARED, described(desc_b, n, k, size, s.b_mn), size, 0, "wgmma"), s.e) * (i.c ? -1.f : 1.f);
    if (s.na == 1) {
        u64 desc_a = w.reg<u64>(i.o[s.nd])[0];
        for (u32 r = 0; r < 16; r++) for (u32 k = 0; k < s.k; k++) A[r * s.k + k] = element(resolve(w, i, SHARED, described(desc_a, w.id % 4 * 16 + r, k, size, s.a_mn), size, 0, "wgmma"), s.e);
    } else for (u32 l = 0; l < 32; l++) for (u32 x = 0; x < s.na * 4 / size; x++) { At p = mma_a(l, x, s.k, size); A[p.row * s.k + p.col] = element(piece(w, i, s.nd, l, x, size), s.e); }
    if (i.b) for (auto& v : A) v = -v;
    auto each = [&](auto f) { for (u32 l = 0; l < 32; l++) for (u32 x = 0; x < s.n / 2; x++) { At p = mma_c(l, x & 3); f(p.row * s.n + x / 4 * 8 + p.col, piece(w, i, 0, l, x, sd)); } };
    each([&](u32 at, u8* p) { C[at] = keep ? element(p, s.d) : 0; });
    for (u32 r = 0; r < 16; r++) for (u32 k = 0; k < s.k; k++) { float v = A[r * s.k + k]; for (u32 n = 0; n < s.n; n++) C[r * s.n + n] += v * B[k * s.n + n]; }
    each([&](u32 at, u8* p) { if (sd == 2) { f16 h(C[at]); memcpy(p, &h, 2); } else memcpy(p, &C[at], 4); });
}

// ---------------------------------------------------------------------------------------------------------------- asynchronous copies
// They are carried out when they are waited for, so that a missing wait shows.
static void cp_async(Warp& w, const Inst& i, u32 m) {  // o: to (shared), from (global), bytes, source bytes or -1
    u64 at[32], to[32];
    EACH_LANE(l, m) {
        u32 n = w.reg<u32>(i.o[2])[l], src = i.o[3] >= 0 ? std::min(n, w.reg<u32>(i.o[3])[l]) : n;
        to[l] = (i.w[0] == 8 ? w.reg<u64>(i.o[0])[l] : w.reg<u32>(i.o[0])[l]) + (u64)i.offset;
        at[l] = w.reg<u64>(i.o[1])[l] + (u64)i.b;
        u8* d = resolve(w, i, SHARED, to[l], n, l, "cp.async");
        const u8* s = src ? resolve(w, i, GLOBAL, at[l], src, l, "cp.async") : nullptr;
        w.copies.push_back({d, s, n, src, w.copy_group, (u8)l});
    }
    if (w.block->launch->profile) { u32 n = w.reg<u32>(i.o[2])[__builtin_ctz(m)]; count_access(w, GLOBAL, at, m, n, false); count_access(w, SHARED, to, m, n, true); }
}
static void complete(Warp& w, u32 m, u32 before) {
    std::vector<AsyncCopy> kept;
    for (auto& c : w.copies) {
        if (!(m >> c.lane & 1) || c.group >= before) { kept.push_back(c); continue; }
        touch_at(w, c.to, c.bytes, true);
        if (c.source_bytes) memcpy(c.to, c.from, c.source_bytes);
        memset(c.to + c.source_bytes, 0, c.bytes - c.source_bytes);
    }
    w.copies.swap(kept);
}
static void cp_commit(Warp& w, const Inst&, u32) { w.copy_group++; }
static void cp_wait(Warp& w, const Inst& i, u32 m) {
    if (i.a) { complete(w, m, ~0u); return; }
    u32 n = w.reg<u32>(i.o[0])[0];
    complete(w, m, w.copy_group > n ? w.copy_group - n : 0);
}

// mbarrier: bits 0..15 arrivals still expected, 16..31 of a phase, 32..62 bytes pending (two's complement), 63 the phase
struct Barrier64 { i32 pending; u16 left, of; };
static u64* barrier_at(Warp& w, const Inst& i, int operand, u32 l) { return (u64*)resolve(w, i, SHARED, address(w, i, operand, l), 8, l, "mbarrier"); }
struct MB { u32 left : 12, of : 12, phase : 8; i32 bytes; };
static_assert(sizeof(MB) == 8);
static void mb_flip(MB& b) { if (b.left == 0 && b.bytes == 0) { b.phase ^= 1; b.left = b.of; } }
static void mb_init(Warp& w, const Inst& i, u32 m) { EACH_LANE(l, m) { MB b{}; b.of = b.left = w.reg<u32>(i.o[1])[l]; b.bytes = 0; memcpy(barrier_at(w, i, 0, l), &b, 8); } }
// a: 0 arrive, 1 expect_tx and arrive, 2 expect_tx alone; o: state or -1, address, count or bytes or -1
static void mb_arrive(Warp& w, const Inst& i, u32 m) {
    EACH_LANE(l, m) {
        u64* p = barrier_at(w, i, 1, l);
        MB b; memcpy(&b, p, 8);
        if (i.o[0] >= 0) w.reg<u64>(i.o[0])[l] = b.phase & 1;
        u32 v = i.o[2] >= 0 ? w.reg<u32>(i.o[2])[l] : 1;
        if (i.a) b.bytes += (i32)v;
        if (i.a != 2) { u32 n = i.a == 1 ? 1 : v; if (b.left < n) throw Fault("mbarrier: more arrivals than it expects"); b.left -= n; }
        mb_flip(b);
        memcpy(p, &b, 8);
    }
}
static void mb_wait(Warp& w, const Inst& i, u32 m) {  // o: p, address, parity or state
    u32 r = 0;
    EACH_LANE(l, m) {
        MB b; memcpy(&b, barrier_at(w, i, 1, l), 8);
        u32 asked = i.b ? w.reg<u32>(i.o[2])[l] & 1 : (u32)w.reg<u64>(i.o[2])[l] & 1;
        r |= (u32)((b.phase & 1) != asked) << l;
    }
    u32* p = w.reg<u32>(i.o[0]); *p = (*p & ~m) | (r & m);
}
static void bulk_copy(Warp& w, const Inst& i, u32 m) {  // cp.async.bulk.shared.global: o: to, from, bytes, barrier
    EACH_LANE(l, m) {
        u64 to = (i.w[0] == 8 ? w.reg<u64>(i.o[0])[l] : w.reg<u32>(i.o[0])[l]) + (u64)i.offset;
        u32 n = w.reg<u32>(i.o[2])[l];
        u8* d = resolve(w, i, SHARED, to, 16, l, "cp.async.bulk");
        resolve(w, i, SHARED, to + n - 16, 16, l, "cp.async.bulk");
        const u8* s = resolve(w, i, GLOBAL, w.reg<u64>(i.o[1])[l] + (u64)(i64)(i32)i.b, 16, l, "cp.async.bulk");
        check_global(*w.block, s, n, "cp.async.bulk");
        memcpy(d, s, n);
        u64 at = (i.w[3] == 8 ? w.reg<u64>(i.o[3])[l] : w.reg<u32>(i.o[3])[l]) + (u64)(i64)(i32)i.c;
        MB b; u64* p = (u64*)resolve(w, i, SHARED, at, 8, l, "mbarrier");
        memcpy(&b, p, 8); b.bytes -= (i32)n; mb_flip(b); memcpy(p, &b, 8);
        if (w.block->launch->profile) { w.n.global_load += n; w.n.sectors += n / 32; w.n.least_sectors += n / 32; }
    }
}
// cp.async.mbarrier.arrive: the copies so far are carried out; with .noinc that counts as an arrival.
static void cp_arrive(Warp& w, const Inst& i, u32 m) {
    complete(w, m, ~0u);
    if (i.a) { Inst arrive = i; arrive.a = 0; mb_arrive(w, arrive, m); }
}
// Tensor maps as this driver encodes them (driver.cpp): tiled, with a swizzle of 0, 32, 64 or 128 bytes.
struct TensorMap { u64 magic, address; u32 rank, element, swizzle, fill; u64 dims[5], strides[5]; u32 box[5], steps[5]; };
static void tensor_copy(Warp& w, const Inst& i, u32 m) {  // o: shared memory, map, barrier, coordinates...; a: from shared memory
    EACH_LANE(l, m) {
        TensorMap t;
        const TensorMap* kept;
        memcpy(&t.magic, (const void*)(w.reg<u64>(i.o[1])[l] + (u64)(i64)(i32)i.b), 8);
        memcpy(&kept, (const u8*)w.reg<u64>(i.o[1])[l] + (i32)i.b + 8, 8);
        if (t.magic != 0x70616d5f75646163) throw Fault("a tensor map that this driver did not encode");
        t = *kept;
        u64 to = (i.w[0] == 8 ? w.reg<u64>(i.o[0])[l] : w.reg<u32>(i.o[0])[l]) + (u64)i.offset;
        u64 count = 1;
        for (u32 r = 0; r < t.rank; r++) count *= t.box[r];
        resolve(w, i, SHARED, to, 16, l, "cp.async.bulk.tensor");
        resolve(w, i, SHARED, to + count * t.element - 16, 16, l, "cp.async.bulk.tensor");
        if (to % 128) throw Fault("a tensor copy whose place in shared memory is not a multiple of 128 bytes");
        for (u64 e = 0; e < count; e++) {
            u64 rest = e, from = t.address; bool inside = true;
            for (u32 r = 0; r < t.rank; r++) {
                i64 c = w.reg<i32>(i.o[3 + r])[l] + (i64)(rest % t.box[r]) * t.steps[r];
                rest /= t.box[r];
                inside &= c >= 0 && (u64)c < t.dims[r];
                from += (u64)c * (r == 0 ? t.element : t.strides[r]);
            }
            u64 at = e * t.element;
            u8* here = w.block->shared + ((to + at) ^ (t.swizzle ? ((to + at) >> 7 & (t.swizzle / 16 - 1)) << 4 : 0));
            if (inside) { check_global(*w.block, (void*)from, t.element, "cp.async.bulk.tensor"); if (i.a) memcpy((void*)from, here, t.element); else memcpy(here, (void*)from, t.element); }
            else if (!i.a) memset(here, 0, t.element);
        }
        if (i.a) { if (w.block->launch->profile) { w.n.global_store += count * t.element; w.n.sectors += count * t.element / 32; w.n.least_sectors += count * t.element / 32; } continue; }
        u64 where = (i.w[2] == 8 ? w.reg<u64>(i.o[2])[l] : w.reg<u32>(i.o[2])[l]) + (u64)(i64)(i32)i.c;
        MB b; u64* p = (u64*)resolve(w, i, SHARED, where, 8, l, "mbarrier");
        memcpy(&b, p, 8); b.bytes -= (i32)(count * t.element); mb_flip(b); memcpy(p, &b, 8);
        if (w.block->launch->profile) { u64 n = count * t.element; w.n.global_load += n; w.n.sectors += n / 32; w.n.least_sectors += n / 32; }
    }
}

// ---------------------------------------------------------------------------------------------------------------- decoding
struct Decoder {
    Builder& b; Inst& in; const Parts& p; const Parts& args;
    const std::string& arg(size_t n) { if (n >= args.size()) b.fail("an operand is missing"); return args[n]; }
    std::string type() { return p.back(); }
    void add(const std::string& s, int width) { in.o.push_back(b.operand(s, width)); in.w.push_back((u8)b.width_of(s, width)); }
    void none() { in.o.push_back(-1); in.w.push_back(0); }
    std::vector<std::string> vector(const std::string& s) {
        if (s.empty() || s[0] != '{') return {s};
        std::vector<std::string> out;
        for (auto& x : split(s.substr(1, s.size() - 2), ',')) out.push_back(trim(x));
        return out;
    }
    // [register+offset], [symbol+offset], [number]
    void addr(const std::string& s, int otherwise = 8) {
        std::string t = trim(s.substr(1, s.size() - 2));
        size_t plus = t.find_first_of("+-", 1);
        i64 off = 0;
        if (plus != std::string::npos) { off = (i64)Builder::literal(trim(t.substr(plus + (t[plus] == '+' ? 1 : 0))), 8); t = trim(t.substr(0, plus)); }
        in.offset = off;
        if (isdigit((u8)t[0])) { in.o.push_back(b.constant(Builder::literal(t, 8), 8)); in.w.push_back(8); return; }
        in.o.push_back(b.operand(t, otherwise));
        in.w.push_back((u8)b.width_of(t, 8));
    }
    u32 space() {
        for (auto& x : p) { if (x.compare(0, 6, "global") == 0 || x == "const") return GLOBAL; if (x.compare(0, 6, "shared") == 0) return SHARED; if (x == "local") return LOCAL; if (x.compare(0, 5, "param") == 0) return PARAM; }
        return GENERIC;
    }
    int carry_register() {
        auto& place = b.registers.emplace("%carry", std::make_pair(0, 4)).first->second;
        if (place.first == 0) place = {b.take(4), 4};
        return place.first;
    }
    void three(const std::string& t) { int n = type_bytes(t); for (size_t x = 0; x < 3; x++) add(arg(x), n); }
    // The predicate operand of an instruction, perhaps negated, perhaps a number.
    int predicate(const std::string& s, u32& negated) {
        negated = 0;
        std::string t = s;
        if (t[0] == '!') { negated = 1; t = trim(t.substr(1)); }
        if (t[0] == '%' || b.registers.count(t)) return b.operand(t, 4);
        return b.constant(Builder::literal(t, 4) ? ~0u : 0u, 4);
    }
    void run();
    bool arithmetic();
    bool logic();
    bool data();
    bool warp_wide();
    bool matrix();
};

static Round rounding(const Parts& p) {
    for (auto& x : p) { if (x == "rn") return RN; if (x == "rz") return RZ; if (x == "rm") return RM; if (x == "rp") return RP; if (x == "rni") return RNI; if (x == "rzi") return RZI; if (x == "rmi") return RMI; if (x == "rpi") return RPI; }
    return RN;
}
static Cost cost_of(const std::string& t) { return t == "f32" || t == "f64" ? Cost::Fp32 : t.find("f16") != std::string::npos ? Cost::Fp16 : Cost::Other; }

bool Decoder::arithmetic() {
    const std::string& op = p[0]; std::string t = type();
    bool ok = true, f = t[0] == 'f' || t[0] == 'b';
    if ((op == "add" || op == "sub" || op == "addc" || op == "subc") && (has(p, "cc") || op == "addc" || op == "subc")) {
        three(t);
        in.o.push_back(carry_register());
        in.a = (op.back() == 'c' ? 1u : 0u) | (has(p, "cc") ? 2u : 0u) | (op[0] == 's' ? 4u : 0u);
        in.fn = type_bytes(t) == 8 ? carry<u64> : carry<u32>;
        return true;
    }
    if (op == "add" || op == "sub" || op == "div" || op == "rem" || op == "min" || op == "max" || op == "copysign") {
        three(t);
        in.cost = op == "div" ? Cost::Special : cost_of(t);
        if (in.cost == Cost::Fp32) in.flops = 1;
        bool nan = has(p, "NaN");
        if (t == "f32" && rounding(p) != RN && (op == "add" || op == "sub")) { in.a = op == "sub"; in.b = rounding(p); in.fn = directed_f32; return true; }
        if (op == "add") in.fn = number_for<Add>(t, ok);
        else if (op == "sub") in.fn = number_for<Sub>(t, ok);
        else if (op == "div") in.fn = number_for<Div>(t, ok);
        else if (op == "rem") in.fn = number_for<Rem>(t, ok);
        else if (op == "min") in.fn = nan ? float_for<MinNan>(t, ok) : number_for<Min>(t, ok);
        else if (op == "max") in.fn = nan ? float_for<MaxNan>(t, ok) : number_for<Max>(t, ok);
        else in.fn = t == "f64" ? binary<double, Copysign> : binary<float, Copysign>;
        return ok;
    }
    if (op == "mul") {
        if (has(p, "wide")) {
            int n = type_bytes(t);
            add(arg(0), 2 * n); add(arg(1), n); add(arg(2), n);
            in.fn = t == "u16" ? mul_wide<u32, u16> : t == "s16" ? mul_wide<i32, i16> : t == "u32" ? mul_wide<u64, u32> : mul_wide<i64, i32>;
            return true;
        }
        three(t);
        in.cost = cost_of(t); in.flops = in.cost == Cost::Fp32 ? 1 : 0;
        if (t == "f32" && rounding(p) != RN) { in.a = 2; in.b = rounding(p); in.fn = directed_f32; return true; }
        in.fn = has(p, "hi") ? binary_for<MulHi>(t, ok) : number_for<Mul>(t, ok);
        return ok;
    }
    if (op == "mul24" || op == "mad24") return false;
    if (op == "madc" || (op == "mad" && has(p, "cc"))) {
        int n = type_bytes(t);
        if (t[0] == 's' && has(p, "hi")) return false;
        add(arg(0), n); add(arg(1), n); add(arg(2), n); add(arg(3), n);
        in.o.push_back(carry_register());
        in.a = (op == "madc" ? 1u : 0u) | (has(p, "cc") ? 2u : 0u) | (has(p, "hi") ? 4u : 0u);
        in.fn = n == 8 ? mad_carry<u64> : mad_carry<u32>;
        return true;
    }
    if (op == "mad" || op == "fma") {
        int n = type_bytes(t);
        bool wide = has(p, "wide");
        add(arg(0), wide ? 2 * n : n); add(arg(1), n); add(arg(2), n); add(arg(3), wide ? 2 * n : n);
        in.a = has(p, "relu");
        if (wide) in.fn = t == "u16" ? mad_wide<u32, u16> : t == "s16" ? mad_wide<i32, i16> : t == "u32" ? mad_wide<u64, u32> : mad_wide<i64, i32>;
        else if (f) {
            in.cost = cost_of(t); in.flops = in.cost == Cost::Fp32 ? 2 : 0;
            if (t == "f32" && rounding(p) != RN) { in.a = 3; in.b = rounding(p); in.fn = directed_f32; return true; }
            in.fn = t == "f32" ? fma_<float> : t == "f64" ? fma_<double> : t == "f16" ? fma_<f16> : t == "bf16" ? fma_<bf16> : t == "f16x2" ? fma_pair<f16> : t == "bf16x2" ? fma_pair<bf16> : nullptr;
        } else if (has(p, "hi")) in.fn = t == "u32" ? mad_hi<u32> : t == "s32" ? mad_hi<i32> : t == "u64" ? mad_hi<u64> : mad_hi<i64>;
        else in.fn = n == 2 ? mad_lo<u16> : n == 4 ? mad_lo<u32> : mad_lo<u64>;
        return in.fn;
    }
    static const std::map<std::string, u32> functions = {{"abs", ABS}, {"neg", NEG}, {"rcp", RCP}, {"sqrt", SQRT}, {"rsqrt", RSQRT}, {"ex2", EX2}, {"lg2", LG2}, {"sin", SIN}, {"cos", COS}, {"tanh", TANH}};
    auto fn = functions.find(op);
    if (fn != functions.end()) {
        int n = type_bytes(t);
        add(arg(0), n); add(arg(1), n);
        in.a = fn->second; in.b = t.find("x2") != std::string::npos ? 2 : 1;
        in.cost = in.a > NEG ? Cost::Special : cost_of(t);
        if (f && t != "b32" && t != "b64") in.fn = t == "f32" ? unary<float> : t == "f64" ? unary<double> : t.compare(0, 3, "f16") == 0 ? unary<f16> : unary<bf16>;
        else in.fn = n == 2 ? integer_unary<i16> : n == 4 ? integer_unary<i32> : integer_unary<i64>;
        return true;
    }
    if (op == "dp4a") return false;
    return false;
}

bool Decoder::logic() {
    const std::string& op = p[0]; std::string t = type();
    bool ok = true;
    if (op == "and" || op == "or" || op == "xor" || op == "not") {
        if (t == "pred") {
            in.o = {b.operand(arg(0), 4), predicate(arg(1), in.b), op == "not" ? 0 : predicate(arg(2), in.c)};
            if (op == "not") in.o[2] = in.o[1];
            in.a = op == "and" ? 0 : op == "or" ? 1 : op == "xor" ? 2 : 3;
            in.fn = pred_logic;
            return true;
        }
        int n = type_bytes(t);
        if (op == "not") { add(arg(0), n); add(arg(1), n); in.fn = n == 2 ? not_<u16> : n == 4 ? not_<u32> : not_<u64>; return true; }
        three(t);
        in.fn = op == "and" ? binary_for<And>(t, ok) : op == "or" ? binary_for<Or>(t, ok) : binary_for<Xor>(t, ok);
        return ok;
    }
    if (op == "shl" || op == "shr") {
        int n = type_bytes(t);
        add(arg(0), n); add(arg(1), n); add(arg(2), 4);
        bool s = t[0] == 's';
        if (op == "shl") in.fn = n == 2 ? shift<u16, true> : n == 4 ? shift<u32, true> : shift<u64, true>;
        else if (s) in.fn = n == 2 ? shift<i16, false> : n == 4 ? shift<i32, false> : shift<i64, false>;
        else in.fn = n == 2 ? shift<u16, false> : n == 4 ? shift<u32, false> : shift<u64, false>;
        return true;
    }
    if (op == "shf") { for (size_t x = 0; x < 4; x++) add(arg(x), 4); in.a = has(p, "wrap"); in.fn = has(p, "l") ? funnel<true> : funnel<false>; return true; }
    if (op == "lop3") { for (size_t x = 0; x < 4; x++) add(arg(x), 4); in.a = (u32)Builder::literal(arg(4), 4); in.fn = lop3; return true; }
    if (op == "prmt") { if (p.size() > 2) return false; for (size_t x = 0; x < 4; x++) add(arg(x), 4); in.fn = prmt; return true; }
    if (op == "bfe") { int n = type_bytes(t); add(arg(0), n); add(arg(1), n); add(arg(2), 4); add(arg(3), 4); in.fn = t == "u32" ? bfe<u32> : t == "s32" ? bfe<i32> : t == "u64" ? bfe<u64> : bfe<i64>; return true; }
    if (op == "bfi") { int n = type_bytes(t); for (size_t x = 0; x < 3; x++) add(arg(x), n); add(arg(3), 4); add(arg(4), 4); in.fn = n == 4 ? bfi<u32> : bfi<u64>; return true; }
    if (op == "popc" || op == "clz" || op == "bfind") {
        int n = type_bytes(t); add(arg(0), 4); add(arg(1), n);
        in.a = op == "popc" ? POPC : op == "clz" ? CLZ : BFIND;
        in.fn = t == "s32" ? bit_count<i32> : t == "s64" ? bit_count<i64> : n == 4 ? bit_count<u32> : bit_count<u64>;
        return !has(p, "shiftamt");
    }
    if (op == "brev") { int n = type_bytes(t); add(arg(0), n); add(arg(1), n); in.fn = n == 4 ? brev<u32> : brev<u64>; return true; }
    static const std::map<std::string, u32> cmps = {{"eq", EQ}, {"ne", NE}, {"lt", LT}, {"le", LE}, {"gt", GT}, {"ge", GE}, {"lo", LT}, {"ls", LE}, {"hi", GT}, {"hs", GE},
        {"equ", EQU}, {"neu", NEU}, {"ltu", LTU}, {"leu", LEU}, {"gtu", GTU}, {"geu", GEU}, {"num", NUM}, {"nan", NAN_}};
    if (op == "setp") {
        int n = type_bytes(t);
        auto pq = split(arg(0), '|');
        in.o = {b.operand(trim(pq[0]), 4), pq.size() > 1 && trim(pq[1]) != "_" ? b.operand(trim(pq[1]), 4) : -1, b.operand(arg(1), n), b.operand(arg(2), n)};
        auto c = cmps.find(p.at(1));
        if (c == cmps.end()) return false;
        in.a = c->second;
        in.b = has(p, "and") ? 1 : has(p, "or") ? 2 : has(p, "xor") ? 3 : 0;
        if (in.b) in.o.push_back(predicate(arg(3), in.d));
        in.fn = t == "u16" || t == "b16" ? setp<u16> : t == "s16" ? setp<i16> : t == "u32" || t == "b32" ? setp<u32> : t == "s32" ? setp<i32> : t == "u64" || t == "b64" ? setp<u64> : t == "s64" ? setp<i64>
            : t == "f32" ? setp<float> : t == "f64" ? setp<double> : t == "f16" ? setp<f16> : t == "bf16" ? setp<bf16> : t == "f16x2" ? setp_pair<f16> : t == "bf16x2" ? setp_pair<bf16> : nullptr;
        return in.fn;
    }
    if (op == "set") {
        auto c = cmps.find(p.at(1));
        if (c == cmps.end()) return false;
        std::string d = p[p.size() - 2]; int n = type_bytes(t);
        add(arg(0), type_bytes(d)); add(arg(1), n); add(arg(2), n); in.a = c->second;
        bool fd = d[0] == 'f';
        in.fn = t == "f32" ? (fd ? set_<float, float> : set_<float, u32>) : t == "s32" ? (fd ? set_<i32, float> : set_<i32, u32>) : t == "u32" ? (fd ? set_<u32, float> : set_<u32, u32>) : nullptr;
        return in.fn;
    }
    if (op == "selp") {
        int n = type_bytes(t);
        add(arg(0), n); add(arg(1), n); add(arg(2), n);
        in.o.push_back(predicate(arg(3), in.a));
        in.fn = n == 2 ? selp<u16> : n == 4 ? selp<u32> : n == 8 ? selp<u64> : nullptr;
        return in.fn;
    }
    if (op == "testp") {
        add(arg(0), 4); add(arg(1), type_bytes(t));
        in.a = p[1] == "finite" ? 0 : p[1] == "infinite" ? 1 : p[1] == "number" ? 2 : p[1] == "notanumber" ? 3 : p[1] == "normal" ? 4 : 5;
        in.fn = t == "f64" ? testp<double> : testp<float>;
        return true;
    }
    return false;
}

bool Decoder::data() {
    const std::string& op = p[0]; std::string t = type();
    if (op == "mov") {
        if (t == "pred") { in.o = {b.operand(arg(0), 4), predicate(arg(1), in.b), 0}; in.o[2] = in.o[1]; in.a = 4; in.fn = pred_logic; return true; }
        int n = type_bytes(t);
        if (arg(0)[0] == '{' || arg(1)[0] == '{') {
            bool to = arg(0)[0] == '{';
            auto v = vector(to ? arg(0) : arg(1));
            add(to ? arg(1) : arg(0), n);
            in.a = (u32)n / (u32)v.size(); in.b = to;
            for (auto& x : v) add(x, (int)in.a);
            in.fn = mov_vector;
            return true;
        }
        add(arg(0), n);
        // The address of a local variable is an offset, of a parameter a pointer.
        add(arg(1), n);
        in.fn = n == 2 ? mov<u16> : n == 4 ? mov<u32> : n == 8 ? mov<u64> : mov<Wide>;
        return true;
    }
    if (op == "ld" || op == "ldu") {
        auto v = vector(arg(0));
        int n = type_bytes(t);
        for (auto& x : v) add(x, n);
        in.a = space(); in.b = (u32)n; in.c = (u32)v.size(); in.d = t[0] == 's';
        addr(arg(1));
        in.cost = in.a == SHARED ? Cost::Shared : in.a == LOCAL ? Cost::Local : in.a == PARAM ? Cost::Other : Cost::Global;
        in.fn = n == 4 ? load<4> : n == 2 ? load<2> : n == 8 ? load<8> : load<0>;
        return true;
    }
    if (op == "st") {
        auto v = vector(arg(1));
        int n = type_bytes(t);
        in.a = space(); in.b = (u32)n; in.c = (u32)v.size();
        addr(arg(0));
        for (auto& x : v) add(x, n);
        in.cost = in.a == SHARED ? Cost::Shared : in.a == LOCAL ? Cost::Local : Cost::Global;
        in.fn = n == 4 ? store<4> : n == 2 ? store<2> : n == 8 ? store<8> : store<0>;
        return true;
    }
    if (op == "cvta") {
        int n = type_bytes(t);
        add(arg(0), n); add(arg(1), n); in.a = space(); in.b = has(p, "to");
        in.fn = cvta;
        return true;
    }
    if (op == "isspacep") { add(arg(0), 4); add(arg(1), 8); in.a = space(); in.fn = isspacep; return true; }
    if (op == "prefetch" || op == "prefetchu" || op == "discard" || op == "applypriority") { in.fn = nothing; return true; }
    if (op == "cvt") {
        std::string d = p[p.size() - 2];
        in.cost = Cost::Convert;
        if (t == "f32" && (d == "f16x2" || d == "bf16x2") && args.size() == 3) {
            add(arg(0), 4); add(arg(1), 4); add(arg(2), 4); in.a = has(p, "relu");
            in.fn = d == "f16x2" ? cvt_pack<f16> : cvt_pack<bf16>;
            return true;
        }
        if (d == "tf32") { add(arg(0), 4); add(arg(1), 4); in.fn = cvt_tf32; return true; }
        add(arg(0), type_bytes(d)); add(arg(1), type_bytes(t));
        in.a = (u32)rounding(p); in.b = has(p, "sat");
        in.fn = d == "u8" || d == "b8" ? cvt_from<u8>(t) : d == "s8" ? cvt_from<i8>(t) : d == "u16" ? cvt_from<u16>(t) : d == "s16" ? cvt_from<i16>(t) : d == "u32" ? cvt_from<u32>(t) : d == "s32" ? cvt_from<i32>(t)
            : d == "u64" ? cvt_from<u64>(t) : d == "s64" ? cvt_from<i64>(t) : d == "f16" ? cvt_from<f16>(t) : d == "bf16" ? cvt_from<bf16>(t) : d == "f32" ? cvt_from<float>(t) : d == "f64" ? cvt_from<double>(t) : nullptr;
        return in.fn && !has(p, "relu") && !has(p, "satfinite");
    }
    if (op == "atom" || op == "red") {
        static const std::map<std::string, u32> ops = {{"add", A_ADD}, {"min", A_MIN}, {"max", A_MAX}, {"and", A_AND}, {"or", A_OR}, {"xor", A_XOR}, {"exch", A_EXCH}, {"cas", A_CAS}, {"inc", A_INC}, {"dec", A_DEC}};
        if (p[1] == "async") return false;
        bool found = false;
        for (auto& x : p) if (ops.count(x)) { in.b = ops.at(x); found = true; }
        size_t at = op == "atom" ? 1 : 0;
        if (!found || arg(at + 1)[0] == '{') return false;
        int n = type_bytes(t);
        if (at) add(arg(0), n); else none();
        if (at && arg(0) == "_") in.o[0] = -1;
        in.a = space(); in.cost = Cost::Global;
        addr(arg(at));
        for (size_t x = at + 1; x < args.size(); x++) add(arg(x), n);
        in.c = t.find("x2") != std::string::npos ? 2 : 1;
        in.fn = t == "f32" ? atomic<float> : t == "f64" ? atomic<double> : t.compare(0, 3, "f16") == 0 ? atomic<f16> : t.compare(0, 4, "bf16") == 0 ? atomic<bf16>
            : t == "s32" ? atomic<i32> : t == "s64" ? atomic<i64> : n == 8 ? atomic<u64> : n == 4 ? atomic<u32> : n == 2 ? atomic<u16> : nullptr;
        return in.fn;
    }
    return false;
}

bool Decoder::warp_wide() {
    const std::string& op = p[0]; std::string t = type();
    if (op == "ret" || op == "exit") { in.kind = Kind::Exit; in.cost = Cost::Control; in.fn = nothing; return true; }
    if (op == "trap" || op == "brkpt") { in.fn = trap; return true; }
    if (op == "bar" || op == "barrier") {
        if (has(p, "warp")) { in.kind = Kind::Converge; in.members = b.operand(arg(0), 4); in.fn = nothing; return true; }
        if (has(p, "cluster")) { in.kind = Kind::Barrier; in.o = {b.constant(15, 4)}; if (has(p, "arrive")) { in.kind = Kind::Plain; } in.fn = nothing; return true; }
        if (has(p, "red")) return false;
        in.kind = Kind::Barrier; in.cost = Cost::Control; in.fn = nothing;
        in.a = has(p, "arrive");
        if (in.a || args.size() > 1) b.k.pipelined = true;
        for (auto& x : args) in.o.push_back(b.operand(x, 4));
        return true;
    }
    if (op == "membar" || op == "fence" || op == "griddepcontrol" || op == "setmaxnreg" || op == "pragma") { in.fn = nothing; return true; }
    if (op == "nanosleep") { in.kind = Kind::Poll; in.fn = nothing; return true; }
    if (op == "shfl") {
        auto dp = split(arg(0), '|');
        in.o = {b.operand(trim(dp[0]), 4), dp.size() > 1 ? b.operand(trim(dp[1]), 4) : -1, b.operand(arg(1), 4), b.operand(arg(2), 4), b.operand(arg(3), 4)};
        in.kind = Kind::Converge; in.members = b.operand(arg(4), 4);
        in.a = has(p, "up") ? UP : has(p, "down") ? DOWN : has(p, "bfly") ? BFLY : IDX;
        in.fn = shfl;
        return true;
    }
    if (op == "vote") {
        in.kind = Kind::Converge; in.members = b.operand(arg(2), 4);
        in.a = has(p, "all") ? 0 : has(p, "any") ? 1 : has(p, "uni") ? 2 : 3;
        in.o = {b.operand(arg(0), 4), predicate(arg(1), in.b)};
        in.fn = vote;
        return true;
    }
    if (op == "match") {
        auto dp = split(arg(0), '|');
        add(trim(dp[0]), 4); add(arg(1), type_bytes(t)); if (dp.size() > 1) add(trim(dp[1]), 4);
        in.kind = Kind::Converge; in.members = b.operand(arg(2), 4); in.a = has(p, "all"); in.fn = match;
        return true;
    }
    if (op == "redux") {
        add(arg(0), 4); add(arg(1), 4); in.kind = Kind::Converge; in.members = b.operand(arg(2), 4);
        in.b = has(p, "add") ? A_ADD : has(p, "min") ? A_MIN : has(p, "max") ? A_MAX : has(p, "and") ? A_AND : has(p, "or") ? A_OR : A_XOR;
        in.fn = t == "s32" ? redux<i32> : t == "f32" ? redux<float> : redux<u32>;
        return true;
    }
    if (op == "activemask") { add(arg(0), 4); in.fn = activemask; return true; }
    if (op == "elect") {
        auto dp = split(arg(0), '|');
        in.o = {trim(dp[0]) == "_" ? -1 : b.operand(trim(dp[0]), 4), b.operand(trim(dp[1]), 4)};
        in.kind = Kind::Converge; in.members = b.operand(arg(1), 4); in.fn = elect;
        return true;
    }
    return false;
}

static Elem elem_of(const std::string& s) {
    return s == "f16" ? E_F16 : s == "bf16" ? E_BF16 : s == "tf32" ? E_TF32 : s == "s8" ? E_S8 : s == "u8" ? E_U8 : s == "f32" ? E_F32 : s == "s32" ? E_S32 : s == "e4m3" ? E_E4M3 : E_E5M2;
}
static bool shape_of(const Parts& p, u32& m, u32& n, u32& k) {
    for (auto& x : p) if (sscanf(x.c_str(), "m%un%uk%u", &m, &n, &k) == 3) return true;
    return false;
}
static bool is_elem(const std::string& s) { return s == "f16" || s == "bf16" || s == "tf32" || s == "s8" || s == "u8" || s == "f32" || s == "s32" || s == "e4m3" || s == "e5m2"; }

bool Decoder::matrix() {
    const std::string& op = p[0];
    if (op == "ldmatrix" || op == "stmatrix") {
        if (!has(p, "m8n8") || type() != "b16") return false;
        in.c = op == "stmatrix";
        auto v = vector(in.c ? arg(1) : arg(0));
        in.a = (u32)v.size(); in.b = has(p, "trans"); in.d = space() == SHARED ? (u32)SHARED : (u32)GENERIC;
        if (in.c) addr(arg(0));
        for (auto& x : v) add(x, 4);
        if (!in.c) addr(arg(1));
        in.kind = Kind::Converge; in.cost = Cost::Shared; in.fn = matrix_rows;
        return true;
    }
    if (op == "mma") {
        MmaShape s{};
        if (!shape_of(p, s.m, s.n, s.k) || s.m != 16 || s.n != 8 || has(p, "sp") || has(p, "block_scale")) return false;
        Parts types;
        for (auto& x : p) if (is_elem(x)) types.push_back(x);
        if (types.size() != 4) return false;
        s.d = elem_of(types[0]); s.a = elem_of(types[1]); s.b = elem_of(types[2]); s.c = elem_of(types[3]);
        std::vector<Parts> vs;
        for (size_t x = 0; x < 4; x++) vs.push_back(vector(arg(x)));
        s.nd = (u32)vs[0].size(); s.na = (u32)vs[1].size(); s.nb = (u32)vs[2].size(); s.nc = (u32)vs[3].size();
        for (auto& v : vs) for (auto& x : v) add(x, 4);
        in.a = (u32)shapes.size(); shapes.push_back(s);
        in.kind = Kind::Converge; in.cost = Cost::Tensor; in.flops = 2ull * s.m * s.n * s.k; in.fn = mma;
        return true;
    }
    if (op == "wgmma") {
        if (p[1] != "mma_async") { in.fn = nothing; in.cost = Cost::Async; return true; }
        u32 m, n, k;
        Parts types;
        for (auto& x : p) if (is_elem(x)) types.push_back(x);
        if (!shape_of(p, m, n, k) || m != 64 || types.size() != 3 || has(p, "sp")) return false;
        Wgmma s{};
        s.n = n; s.k = k; s.d = elem_of(types[0]); s.e = elem_of(types[1]);
        if (types[1] != types[2] || s.d == E_S32) return false;
        auto d = vector(arg(0)), a = vector(arg(1));
        s.nd = (u32)d.size(); s.na = (u32)a.size();
        for (auto& x : d) add(x, 4);
        for (auto& x : a) add(x, s.na == 1 ? 8 : 4);
        add(arg(2), 8);
        u32 negated;
        in.o.push_back(predicate(arg(3), negated));
        if (negated) return false;
        in.b = arg(4) == "-1"; in.c = arg(5) == "-1";
        if (s.na == 1 && args.size() > 7) { s.a_mn = arg(6) == "1"; s.b_mn = arg(7) == "1"; }
        if (s.na > 1 && args.size() > 6) s.b_mn = arg(6) == "1";
        in.a = (u32)wgmmas.size(); wgmmas.push_back(s);
        in.kind = Kind::Converge; in.cost = Cost::Tensor; in.flops = 2ull * 16 * n * k; in.fn = wgmma;
        return true;
    }
    if (op == "wmma") {
        u32 m, n, k;
        if (!shape_of(p, m, n, k)) return false;
        if (p[1] == "mma") {
            WmmaMul s{};
            s.m = m; s.n = n; s.k = k;
            Parts types;
            for (auto& x : p) if (is_elem(x)) types.push_back(x);
            // f16 gives the types of D and C alone; the others name D, A, B, C.
            if (types.size() == 2) { s.d = elem_of(types[0]); s.c = elem_of(types[1]); s.a = s.b = E_F16; }
            else if (types.size() == 4) { s.d = elem_of(types[0]); s.a = elem_of(types[1]); s.b = elem_of(types[2]); s.c = elem_of(types[3]); }
            else return false;
            std::vector<Parts> vs;
            for (size_t x = 0; x < 4; x++) vs.push_back(vector(arg(x)));
            s.nd = (u32)vs[0].size(); s.na = (u32)vs[1].size(); s.nb = (u32)vs[2].size(); s.nc = (u32)vs[3].size();
            for (auto& v : vs) for (auto& x : v) add(x, 4);
            in.a = (u32)wmuls.size(); wmuls.push_back(s);
            in.kind = Kind::Converge; in.cost = Cost::Tensor; in.flops = 2ull * m * n * k; in.fn = wmma_mul;
            return true;
        }
        WmmaShape s{};
        s.m = m; s.n = n; s.k = k; s.store = p[1] == "store"; s.space = space();
        std::string which = p[2];
        s.e = elem_of(type());
        s.rows = which == "b" ? k : m; s.cols = which == "a" ? k : n;
        s.row_major = has(p, "row");
        auto v = vector(s.store ? arg(1) : arg(0));
        s.regs = (u32)v.size();
        if (s.store) addr(arg(0));
        for (auto& x : v) add(x, 4);
        if (!s.store) addr(arg(1));
        if (args.size() > 2) add(arg(2), 4); else { in.o.push_back(b.constant(s.row_major ? s.cols : s.rows, 4)); in.w.push_back(4); }
        in.a = (u32)wshapes.size(); wshapes.push_back(s);
        in.kind = Kind::Converge; in.cost = s.space == SHARED ? Cost::Shared : Cost::Global; in.fn = wmma_move;
        return true;
    }
    if (op == "cp") {
        in.cost = Cost::Async;
        if (has(p, "commit_group")) { in.fn = has(p, "bulk") ? nothing : cp_commit; return true; }
        if (has(p, "wait_group")) { if (has(p, "bulk")) { in.fn = nothing; return true; } in.o.push_back(b.operand(arg(0), 4)); in.fn = cp_wait; return true; }
        if (has(p, "wait_all")) { in.a = 1; in.fn = cp_wait; return true; }
        if (has(p, "mbarrier")) { none(); addr(arg(0)); none(); in.a = has(p, "noinc"); in.fn = cp_arrive; return true; }
        if (!has(p, "bulk")) {
            addr(arg(0)); i64 to = in.offset; addr(arg(1)); in.b = (u32)in.offset; in.offset = to;
            add(arg(2), 4); if (args.size() > 3) add(arg(3), 4); else none();
            in.fn = cp_async;
            return true;
        }
        if (has(p, "prefetch")) { in.fn = nothing; return true; }
        // Towards shared memory, or a tensor from it.
        auto from = std::find(p.begin(), p.end(), "global"), to = std::find_if(p.begin(), p.end(), [](auto& x) { return x.compare(0, 6, "shared") == 0; });
        if (from == p.end() || to == p.end()) return false;
        if (from < to) {
            if (!has(p, "tensor") || has(p, "im2col")) return false;
            std::string inner = arg(0).substr(1, arg(0).size() - 2);
            size_t comma = inner.find(',');
            addr(arg(1)); i64 at = in.offset;
            addr("[" + trim(inner.substr(0, comma)) + "]"); in.b = (u32)in.offset; in.offset = at;
            none();
            for (auto& c : vector(trim(inner.substr(comma + 1)))) add(c, 4);
            in.a = 1; in.fn = tensor_copy;
            return true;
        }
        if (has(p, "tensor")) {
            addr(arg(0)); i64 at = in.offset;
            std::string inner = arg(1).substr(1, arg(1).size() - 2);
            size_t comma = inner.find(',');
            addr("[" + trim(inner.substr(0, comma)) + "]"); in.b = (u32)in.offset;
            addr(arg(2)); in.c = (u32)in.offset; in.offset = at;
            for (auto& c : vector(trim(inner.substr(comma + 1)))) add(c, 4);
            in.fn = tensor_copy;
            return !has(p, "im2col") && !has(p, "multicast::cluster");
        }
        addr(arg(0)); i64 at = in.offset;
        addr(arg(1)); in.b = (u32)in.offset;
        add(arg(2), 4); addr(arg(3)); in.c = (u32)in.offset; in.offset = at;
        in.fn = bulk_copy;
        return true;
    }
    if (op == "mbarrier") {
        b.k.pipelined = true;
        in.cost = Cost::Async;
        if (p[1] == "init") { addr(arg(0)); add(arg(1), 4); in.fn = mb_init; return true; }
        if (p[1] == "inval") { in.fn = nothing; return true; }
        if (p[1] == "expect_tx") { none(); addr(arg(0)); add(arg(1), 4); in.a = 2; in.fn = mb_arrive; return true; }
        if (p[1] == "arrive" || p[1] == "arrive_drop") {
            bool state = arg(0)[0] != '[';
            if (state && arg(0) != "_") add(arg(0), 8); else none();
            addr(arg(state ? 1 : 0));
            size_t next = state ? 2 : 1;
            if (args.size() > next) add(arg(next), 4); else none();
            in.a = has(p, "expect_tx"); in.fn = mb_arrive;
            return p[1] == "arrive";
        }
        if (p[1] == "try_wait" || p[1] == "test_wait") {
            add(arg(0), 4); addr(arg(1)); in.b = has(p, "parity"); add(arg(2), in.b ? 4 : 8);
            in.kind = Kind::Poll; in.fn = mb_wait;
            return true;
        }
    }
    return false;
}

void Decoder::run() {
    if (arithmetic() || logic() || data() || warp_wide() || matrix()) return;
    b.fail("not supported");
}
void decode(Builder& b, Inst& in, const Parts& parts, const Parts& args) { Decoder{b, in, parts, args}.run(); }
