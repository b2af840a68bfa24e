// SPDX-License-Identifier: Apache-2.0
// Stub memory, stub assembly and the signal handler of hostexec.h.

#include "x86/hostexec.h"
#include "base/log.h"
#include "x86/cpuid.h"
#include "x86/state.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

// Some 71,000 stubs with 2.7 MB of code are possible (tests/vector/test_stubs.c counts them): the forms
// with an 8-bit immediate make nearly all. Untouched pages cost nothing.
#define ARENA_SIZE MIB(8)
#define STUBS_MAX (1u << 17)
#define HASH_SIZE (1u << 18)
#define STUB_BYTES_MAX 192

struct hostexec_stub *hostexec_stubs;
hostexec_x87_fn *_Atomic hostexec_x87_code[HOSTEXEC_X87_CODES]; // memory forms, then register forms

static struct {
    pthread_mutex_t lock;
    _Atomic bool ready;
    uint8_t *rw, *rx;
    size_t used;
    uint32_t stub_count;
    _Atomic uint32_t *hash;               // stub numbers
    uintptr_t mxcsr_at, trap_fp, trap_ud; // executable addresses of the common parts
    bool has[X86_FEATURE_COUNT];          // what the host executes
    struct sigaction old_fpe, old_ill;
} arena = {.lock = PTHREAD_MUTEX_INITIALIZER};

// --- assembling ----------------------------------------------------------------------------------

struct code {
    uint8_t bytes[STUB_BYTES_MAX];
    unsigned len;
    uintptr_t at; // executable address of bytes[0]
};

static void put(struct code *c, const void *bytes, unsigned n)
{
    if (c->len + n <= STUB_BYTES_MAX) // fixed parts only: never reached
        memcpy(c->bytes + c->len, bytes, n);
    c->len += n;
}
#define PUT(c, ...) put((c), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void put32(struct code *c, uint32_t v)
{
    put(c, &v, 4);
}

static void begin(struct code *c)
{
    arena.used = (arena.used + 15) & ~(size_t)15;
    c->len = 0;
    c->at = (uintptr_t)arena.rx + arena.used;
}

// Copies the finished code into the arena. Returns its executable address or 0.
static uintptr_t finish(struct code *c)
{
    if (c->len > STUB_BYTES_MAX || arena.used + c->len > ARENA_SIZE)
        return 0;
    memcpy(arena.rw + arena.used, c->bytes, c->len);
    arena.used += c->len;
    return c->at;
}

static void put_host_mxcsr(struct code *c) // ldmxcsr [rip + mxcsr_at]
{
    PUT(c, 0x0f, 0xae, 0x15);
    put32(c, (uint32_t)(arena.mxcsr_at - (c->at + c->len + 4)));
}

static void put_flags(struct code *c) // lahf; seto al; movzx eax, ax
{
    PUT(c, 0x9f, 0x0f, 0x90, 0xc0, 0x0f, 0xb7, 0xc0);
}

static void put_load(struct code *c, const struct x86_host_insn *h, unsigned k)
{
    const struct x86_host_operand *op = &h->operand[k];
    uint8_t modrm = (uint8_t)(op->reg << 3 | x86_host_pointer(k));
    switch (op->kind) {
    case X86_HOST_VEC: // destinations too: legacy instructions merge, and it does no harm
        if (h->vex)
            PUT(c, 0xc5, h->vex_l ? 0xfc : 0xf8, 0x10, modrm); // vmovups
        else
            PUT(c, 0x0f, 0x10, modrm); // movups
        break;
    case X86_HOST_MMX:
        PUT(c, 0x0f, 0x6f, modrm); // movq
        break;
    case X86_HOST_GPR:
        if (op->rw & X86_RW_READ)
            PUT(c, 0x48, 0x8b, modrm); // mov rax, [p]
        break;
    default:
        break;
    }
}

static void put_store(struct code *c, const struct x86_host_insn *h, unsigned k)
{
    const struct x86_host_operand *op = &h->operand[k];
    uint8_t modrm = (uint8_t)(op->reg << 3 | x86_host_pointer(k));
    if (!(op->rw & X86_RW_WRITE))
        return;
    if (op->kind == X86_HOST_VEC) {
        // A VEX instruction has cleared the upper half: store it. A legacy one keeps the guest's.
        if (h->vex)
            PUT(c, 0xc5, 0xfc, 0x11, modrm);
        else
            PUT(c, 0x0f, 0x11, modrm);
    } else if (op->kind == X86_HOST_MMX) {
        PUT(c, 0x0f, 0x7f, modrm);
    }
}

// PCMPESTRI and its like: lengths in RAX, RDX; result in RCX or XMM0. r9 points at cpu->gpr.
static void put_implicit_in(struct code *c, const struct x86_form *form)
{
    if (form->gpr_read & (1 << X86_RAX))
        PUT(c, 0x49, 0x8b, 0x01); // mov rax, [r9]
    if (form->gpr_read & (1 << X86_RDX))
        PUT(c, 0x49, 0x8b, 0x51, 8 * X86_RDX); // mov rdx, [r9 + 16]
}

static bool is_pcmpstr(const struct x86_form *form)
{
    return form->map == X86_MAP_0F3A && form->opcode >= 0x60 && form->opcode <= 0x63;
}

static void put_implicit_out(struct code *c, const struct x86_form *form,
                             const struct x86_host_insn *h)
{
    if (form->opcode & 1) {
        PUT(c, 0x49, 0x89, 0x49, 8 * X86_RCX); // mov [r9 + 8], rcx
    } else {
        if (h->vex)
            PUT(c, 0xc4, 0xc1, 0x7c, 0x11, 0x81); // vmovups [r9 + disp32], ymm0
        else
            PUT(c, 0x41, 0x0f, 0x11, 0x81); // movups [r9 + disp32], xmm0
        put32(c, (uint32_t)(offsetof(struct x86_cpu, vec) - offsetof(struct x86_cpu, gpr)));
    }
}

static hostexec_fn *build(const struct x86_form *form, const struct x86_host_insn *h, bool exact)
{
    struct code c;
    bool mmx = false, result = false;

    begin(&c);
    for (unsigned k = 0; k < h->operand_count; k++) {
        put_load(&c, h, k);
        mmx |= h->operand[k].kind == X86_HOST_MMX;
    }
    if (is_pcmpstr(form))
        put_implicit_in(&c, form);
    if (exact)
        PUT(&c, 0x41, 0x0f, 0xae, 0x10); // ldmxcsr [r8]
    put(&c, h->bytes, h->len);
    for (unsigned k = 0; k < h->operand_count; k++) {
        if (h->operand[k].kind == X86_HOST_GPR && (h->operand[k].rw & X86_RW_WRITE))
            PUT(&c, 0x48, 0x89, (uint8_t)x86_host_pointer(k)); // mov [p], rax
    }
    if (form->flags_written & X86_FLAGS_ARITH) {
        put_flags(&c);
        result = true;
    }
    if (exact) {
        PUT(&c, 0x41, 0x0f, 0xae, 0x18); // stmxcsr [r8]
        put_host_mxcsr(&c);
    }
    for (unsigned k = 0; k < h->operand_count; k++)
        put_store(&c, h, k);
    if (is_pcmpstr(form))
        put_implicit_out(&c, form, h);
    if (!result)
        PUT(&c, 0x31, 0xc0); // xor eax, eax
    if (mmx)
        PUT(&c, 0x0f, 0x77); // emms
    if (h->vex && h->vex_l)
        PUT(&c, 0xc5, 0xf8, 0x77); // vzeroupper
    PUT(&c, 0xc3);
    return (hostexec_fn *)finish(&c);
}

// --- the table of stubs --------------------------------------------------------------------------

static void describe(struct hostexec_stub *stub, const struct x86_form *form,
                     const struct x86_host_insn *h)
{
    stub->mem = h->mem;
    stub->operand_count = h->operand_count;
    stub->flags = (form->flags_written & X86_FLAGS_ARITH) != 0;
    if (form->attr & X86_INSN_VEX)
        stub->checks |= HOSTEXEC_CHECK_AVX;
    else if (form->attr & X86_INSN_SSE)
        stub->checks |= HOSTEXEC_CHECK_SSE;
    else // CVTPI2PS and CVTPI2PD from memory are SSE instructions only
        stub->checks |= HOSTEXEC_CHECK_MMX;
    for (unsigned k = 0; k < h->operand_count; k++) {
        const struct x86_host_operand *op = &h->operand[k];
        struct hostexec_operand *o = &stub->operand[k];
        o->field = op->field;
        o->mask = op->mask;
        switch (op->kind) {
        case X86_HOST_VEC:
            o->base = offsetof(struct x86_cpu, vec);
            o->shift = 5;
            break;
        case X86_HOST_MMX:
            o->base = offsetof(struct x86_cpu, x87.reg);
            o->shift = 4;
            stub->mmx = true;
            stub->checks |= HOSTEXEC_CHECK_MMX;
            if (op->rw & X86_RW_WRITE)
                stub->mmx_written = (uint8_t)(k + 1);
            break;
        case X86_HOST_GPR:
            o->base = offsetof(struct x86_cpu, gpr);
            o->shift = 3;
            break;
        default:
            stub->mem_size = op->size;
            stub->mem_write = (op->rw & X86_RW_WRITE) != 0;
            stub->mem_align = (form->attr & X86_INSN_ALIGN) ? op->size : 1;
            break;
        }
    }
}
_Static_assert(sizeof(union x86_vec) == 32 && sizeof(((struct x86_cpu *)0)->x87.reg[0]) == 16 &&
                   offsetof(struct x86_cpu, x87) < 65536 && offsetof(struct x86_cpu, vec) < 65536,
               "operand addresses");

static uint32_t hash_of(uint64_t key)
{
    return (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 46); // 18 bits
}

static uint32_t lookup(uint64_t key, uint32_t *slot)
{
    for (uint32_t i = hash_of(key);; i = (i + 1) & (HASH_SIZE - 1)) {
        uint32_t n = atomic_load_explicit(&arena.hash[i], memory_order_acquire);
        *slot = i;
        if (n == 0 || hostexec_stubs[n].key == key)
            return n;
    }
}

static uint32_t create(uint64_t key, const struct x86_form *form, const struct x86_host_insn *h)
{
    uint32_t slot, n = lookup(key, &slot);
    if (n != 0)
        return n;
    if (arena.stub_count + 1 >= STUBS_MAX) {
        log_limited(LOG_ERROR, "hostexec: stub table is full");
        return 0;
    }
    n = arena.stub_count + 1;
    struct hostexec_stub *stub = &hostexec_stubs[n];
    memset(stub, 0, sizeof(*stub));
    stub->key = key;
    describe(stub, form, h);
    stub->plain = build(form, h, false);
    if (form->attr & X86_INSN_FPEXC)
        stub->exact = build(form, h, true);
    if (stub->plain == NULL || ((form->attr & X86_INSN_FPEXC) && stub->exact == NULL)) {
        log_limited(LOG_ERROR, "hostexec: stub memory is full");
        return 0;
    }
    arena.stub_count = n;
    atomic_store_explicit(&arena.hash[slot], n, memory_order_release);
    return n;
}

uint32_t hostexec_stub_find(const struct x86_insn *insn)
{
    const struct x86_form *form = x86_insn_form(insn);
    struct x86_host_insn h;
    uint32_t slot;

    if (!atomic_load_explicit(&arena.ready, memory_order_acquire) && hostexec_init(NULL) < 0)
        return 0;
    if (!x86_reencode(&h, insn) || !hostexec_has(form->feature))
        return 0;
    uint64_t key = (uint64_t)insn->form << 16 | (uint64_t)h.vex_l << 8 | (uint64_t)h.w << 9 |
                   (uint64_t)(h.mem >= 0) << 10 | UINT64_C(1) << 63;
    if (form->imm != 0)
        key |= h.bytes[h.len - 1];
    uint32_t n = lookup(key, &slot);
    if (n == 0) {
        pthread_mutex_lock(&arena.lock);
        n = create(key, form, &h);
        pthread_mutex_unlock(&arena.lock);
    }
    return n;
}

size_t hostexec_code_used(void)
{
    pthread_mutex_lock(&arena.lock);
    size_t used = arena.used;
    pthread_mutex_unlock(&arena.lock);
    return used;
}

// --- x87 -----------------------------------------------------------------------------------------

static hostexec_x87_fn *build_x87(uint8_t opcode, uint8_t modrm)
{
    struct code c;
    bool reg = modrm >= 0xc0;
    bool cmov = reg && (opcode == 0xda || opcode == 0xdb) && modrm < 0xe0;
    bool comi = reg && (opcode == 0xdb || opcode == 0xdf) && modrm >= 0xe8 && modrm < 0xf8;

    begin(&c);
    if (cmov)
        PUT(&c, 0x89, 0xf0, 0x9e); // mov eax, esi; sahf
    if (comi) // some processors leave the flags alone when an unmasked exception arises
        PUT(&c, 0x89, 0xf0, 0x04, 0x7f, 0x9e); // mov eax, esi; add al, 0x7f (sets OF from 1); sahf
    PUT(&c, opcode, modrm);
    if (comi)
        put_flags(&c);
    else
        PUT(&c, 0x31, 0xc0);
    PUT(&c, 0xc3);
    return (hostexec_x87_fn *)finish(&c);
}

// Instructions that take part in the stubs: all but the control instructions (those are done on the
// saved state) and the encodings that no processor defines.
static bool x87_defined(uint8_t opcode, uint8_t modrm)
{
    unsigned reg = (modrm >> 3) & 7;
    if (modrm < 0xc0) {
        // FLDENV FLDCW FNSTENV FNSTCW, FRSTOR FNSAVE FNSTSW
        if (opcode == 0xd9)
            return reg < 4 && reg != 1;
        if (opcode == 0xdb)
            return reg != 4 && reg != 6;
        if (opcode == 0xdd)
            return reg < 4;
        return true;
    }
    switch (opcode) {
    case 0xd9:
        return modrm != 0xe2 && modrm != 0xe3 && modrm != 0xe6 && modrm != 0xe7 && modrm != 0xef &&
               (modrm < 0xd1 || modrm >= 0xd8);
    case 0xda:
        return modrm < 0xe0 || modrm == 0xe9;
    case 0xdb:
        return modrm < 0xe0 || (modrm >= 0xe8 && modrm < 0xf8);
    case 0xdd:
        return modrm < 0xf0;
    case 0xde:
        return modrm < 0xd8 || modrm == 0xd9 || modrm >= 0xe0;
    case 0xdf:
        return modrm < 0xe0 || (modrm >= 0xe8 && modrm < 0xf8);
    default:
        return true;
    }
}

uint32_t hostexec_x87_find(uint8_t opcode, uint8_t modrm)
{
    uint32_t column = modrm >= 0xc0 ? 8 + (modrm & 63) : (modrm >> 3) & 7;
    uint32_t n = 1 + (opcode & 7) * 72u + column;
    if (modrm < 0xc0)
        modrm = (uint8_t)((modrm & 0x38) | 7); // [rdi]
    if ((opcode & 0xf8) != 0xd8 || !x87_defined(opcode, modrm) || !hostexec_has(X86_FEATURE_fpu))
        return 0;
    if (atomic_load_explicit(&hostexec_x87_code[n], memory_order_acquire) == NULL) {
        pthread_mutex_lock(&arena.lock);
        if (atomic_load(&hostexec_x87_code[n]) == NULL)
            atomic_store(&hostexec_x87_code[n], build_x87(opcode, modrm));
        pthread_mutex_unlock(&arena.lock);
    }
    return atomic_load(&hostexec_x87_code[n]) != NULL ? n : 0;
}

// --- the host ------------------------------------------------------------------------------------

// (<cpuid.h> would find this folder's.)
static void host_cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    __asm__ volatile("cpuid"
                     : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                     : "a"(leaf), "c"(sub));
}

static bool host_feature(uint32_t leaf, uint32_t sub, unsigned reg, unsigned bit)
{
    uint32_t r[4];
    host_cpuid(leaf & 0x80000000, 0, r);
    if (r[0] < leaf)
        return false;
    host_cpuid(leaf, sub, r);
    return r[reg] >> bit & 1;
}

static void probe_host(void)
{
    static const uint8_t ymm[] = {X86_FEATURE_avx, X86_FEATURE_avx2, X86_FEATURE_fma,
                                  X86_FEATURE_f16c};
    uint32_t xcr0 = 0, high;

    arena.has[X86_FEATURE_NONE] = true;
#define X(name, leaf, sub, reg, bit, level) \
    arena.has[X86_FEATURE_##name] = host_feature(leaf, sub, reg, bit);
    X86_FEATURE_LIST(X)
#undef X
    if (arena.has[X86_FEATURE_osxsave])
        __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    for (unsigned i = 0; i < ARRAY_SIZE(ymm); i++)
        arena.has[ymm[i]] = arena.has[ymm[i]] && (xcr0 & 6) == 6;
}

bool hostexec_has(unsigned feature)
{
    if (!atomic_load_explicit(&arena.ready, memory_order_acquire) && hostexec_init(NULL) < 0)
        return false;
    return feature < X86_FEATURE_COUNT && arena.has[feature];
}

static void pass_on(int sig, siginfo_t *info, void *context, const struct sigaction *old)
{
    if (old->sa_flags & SA_SIGINFO) {
        old->sa_sigaction(sig, info, context);
    } else if (old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN) {
        signal(sig, SIG_DFL); // the instruction faults again, and the process ends as it would have
    } else {
        old->sa_handler(sig);
    }
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    uintptr_t rip = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    if (rip - (uintptr_t)arena.rx < ARENA_SIZE) {
        // The frame's MXCSR, with the exception's flags, comes back with sigreturn: trap_fp stores
        // it.
        bool simd = sig == SIGFPE && uc->uc_mcontext.gregs[REG_TRAPNO] == X86_XM;
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(simd ? arena.trap_fp : arena.trap_ud);
        return;
    }
    pass_on(sig, info, context, sig == SIGFPE ? &arena.old_fpe : &arena.old_ill);
}

static int map_arena(struct error *err)
{
    int fd = memfd_create("croft-stubs", MFD_CLOEXEC | MFD_EXEC);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("croft-stubs", MFD_CLOEXEC);
    if (fd < 0)
        return error_set(err, ERROR_HOST, "memfd_create: %s", strerror(errno));
    void *rw = MAP_FAILED, *rx = MAP_FAILED;
    if (ftruncate(fd, ARENA_SIZE) == 0) {
        rw = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        rx = mmap(NULL, ARENA_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    }
    int saved = errno;
    close(fd);
    size_t stubs = STUBS_MAX * sizeof(struct hostexec_stub), hash = HASH_SIZE * sizeof(uint32_t);
    void *tables = mmap(NULL, stubs + hash, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (rw == MAP_FAILED || rx == MAP_FAILED || tables == MAP_FAILED) {
        if (rw != MAP_FAILED)
            munmap(rw, ARENA_SIZE);
        if (rx != MAP_FAILED)
            munmap(rx, ARENA_SIZE);
        if (tables != MAP_FAILED)
            munmap(tables, stubs + hash);
        return error_set(err, ERROR_HOST,
                         "no memory for host code: %s (does the host forbid executable mappings?)",
                         strerror(saved));
    }
    arena.rw = rw;
    arena.rx = rx;
    arena.hash = (void *)((uint8_t *)tables + stubs);
    hostexec_stubs = tables;
    return 0;
}

static void build_common(void)
{
    struct code c;
    bool avx = arena.has[X86_FEATURE_avx];

    begin(&c);
    put32(&c, 0x1f80);
    arena.mxcsr_at = finish(&c);

    begin(&c);
    PUT(&c, 0x41, 0x0f, 0xae, 0x18); // stmxcsr [r8]
    put_host_mxcsr(&c);
    if (avx)
        PUT(&c, 0xc5, 0xf8, 0x77);
    PUT(&c, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x80, 0xc3); // mov rax, TRAP_FP; ret
    arena.trap_fp = finish(&c);

    begin(&c);
    put_host_mxcsr(&c);
    if (avx)
        PUT(&c, 0xc5, 0xf8, 0x77);
    PUT(&c, 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x40, 0xc3); // mov rax, TRAP_UD; ret
    arena.trap_ud = finish(&c);
}

static int init_locked(struct error *err)
{
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    if (atomic_load(&arena.ready))
        return 0;
    if (arena.rx == NULL) {
        if (map_arena(err) < 0)
            return -1;
        probe_host();
        build_common();
    }
    sigemptyset(&sa.sa_mask);
    if (sigaction(SIGFPE, &sa, &arena.old_fpe) < 0 || sigaction(SIGILL, &sa, &arena.old_ill) < 0)
        return error_set(err, ERROR_HOST, "sigaction: %s", strerror(errno));
    atomic_store_explicit(&arena.ready, true, memory_order_release);
    return 0;
}

int hostexec_init(struct error *err)
{
    pthread_mutex_lock(&arena.lock);
    int result = init_locked(err);
    pthread_mutex_unlock(&arena.lock);
    return result;
}
