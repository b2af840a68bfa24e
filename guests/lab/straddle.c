// SPDX-License-Identifier: Apache-2.0
// Page borders: instructions that lie across one at every split point, operands that do, with either page missing, read-only,
// the supervisor's or not executable, and branches to the last byte of a page. A fault must name the right page and
// leave everything as it was; without one the result must be that of the same thing in the middle of a page.
#include "stress.h"

#ifdef __x86_64__
#define SI "%rsi"
#define BX "%rbx"
#define CX "%rcx"
#else
#define SI "%esi"
#define BX "%ebx"
#define CX "%ecx"
#endif

#define CODE_PAGE 1u // and the next
#define DATA_PAGE 5u // and the next
#define MIDDLE (STRESS_LINEAR + 10 * 4096ul + 1024)
#define MIDDLE_FRAME 10u
#define RESULT (STRESS_LINEAR + 12 * 4096ul)
#define WINDOW 1024u // bytes that are compared, the operand in their middle

struct state_name {
    const char *name;
    u64 flags;
};
static const struct state_name states[] = {{"present", STRESS_RW},
                                           {"absent", 0},
                                           {"read-only", PAGE_P | PAGE_U},
                                           {"supervisor's", PAGE_P | PAGE_W},
                                           {"not executable", STRESS_RW | STRESS_NX}};

static struct lab_state base_state(bool user, ulong ip)
{
    struct lab_state s = {.ip = ip, .cs = user ? SEL_CODE3 : SEL_CODE0, .flags = 2};
    static u8 stack[1024] __attribute__((aligned(16)));
    s.ss = s.ds = s.es = s.fs = s.gs = user ? SEL_DATA3 : SEL_DATA0;
    s.sp = (ulong)stack + 768;
    for (u32 i = 0; i < LAB_GPRS; i++)
        s.gpr[i] = 0x01020304u * (i + 1);
    s.gpr[3] = RESULT;
    return s;
}

// --- operands --------------------------------------------------------------------------------------------------

enum where {
    AT_SI,
    AT_DI,
    AT_POP,  // at the stack pointer
    AT_PUSH, // below it
};
enum content {
    RANDOM,
    POINTER, // to the routine's end
    FAR,     // that, and a selector behind 4 bytes
    X87,     // zeros: the environment or image of a fresh unit
};
struct operand {
    const char *name, *code, *end;
    bool writes;
    u16 size;
    u8 where, content, needs; // 1: SSE, 2: AVX
};
#define CODE(name, text)                                                    \
    extern char name[], name##_end[];                                       \
    __asm__(".pushsection .text\n" #name ": " text "\n" #name "_end: ud2\n" \
            ".popsection\n")
#define R(n, s, ...)                                                                   \
    {                                                                                  \
        .name = #n, .code = n, .end = n##_end, .writes = false, .size = s, __VA_ARGS__ \
    }
#define W(n, s, ...)                                                                  \
    {                                                                                 \
        .name = #n, .code = n, .end = n##_end, .writes = true, .size = s, __VA_ARGS__ \
    }

CODE(load16, "movw (" SI "), %ax");
CODE(load32, "movl (" SI "), %eax");
CODE(loadzx, "movzwl (" SI "), %eax");
CODE(cmp32, "cmpl %eax, (" SI ")");
CODE(test32, "testl %eax, (" SI ")");
CODE(imul32, "imull (" SI "), %eax");
CODE(bt32, "btl $5, (" SI ")");
CODE(adc32, "adcl (" SI "), %ecx");
CODE(cmov32, ".byte 0x0f, 0x45, 0x06"); // CMOVNE EAX, [SI]
CODE(lods32, "lodsl");
CODE(scas32, "scasl");
CODE(store16, "movw %ax, (" SI ")");
CODE(store32, "movl %eax, (" SI ")");
CODE(storeimm, "movl $0x12345678, (" SI ")");
CODE(stos32, "stosl");
CODE(add32, "addl %eax, (" SI ")");
CODE(add16, "addw %ax, (" SI ")");
CODE(sbbimm, "sbbl $0x1234, (" SI ")");
CODE(not32, "notl (" SI ")");
CODE(inc32, "incl (" SI ")");
CODE(rol32, "roll $3, (" SI ")");
CODE(shld32, "shldl $3, %eax, (" SI ")");
CODE(bts32, "btsl $9, (" SI ")");
CODE(xchg32, "xchgl %eax, (" SI ")");
CODE(xadd32, "xaddl %eax, (" SI ")");
CODE(cmpxchg32, "cmpxchgl %ecx, (" SI ")");
CODE(lockadd32, "lock addl %eax, (" SI ")");
CODE(lockcmpxchg32, "lock cmpxchgl %ecx, (" SI ")");
CODE(cmpxchg8, ".byte 0x0f, 0xc7, 0x0e");
CODE(sgdt_, "sgdt (" SI ")");
CODE(callm, "call *(" SI ")\n nop");
CODE(jmpm, "jmp *(" SI ")\n nop");
CODE(lfs_, "lfs (" SI "), %eax");
CODE(fld32, "flds (" SI "); fstpl (" BX ")");
CODE(fld64, "fldl (" SI "); fstpl (" BX ")");
CODE(fld80, "fldt (" SI "); fstpt (" BX ")");
CODE(fild64, "fildll (" SI "); fistpll (" BX ")");
CODE(fst32, "fsts (" SI ")");
CODE(fst64, "fstl (" SI ")");
CODE(fstp80, "fstpt (" SI ")");
CODE(fistp64, "fistpll (" SI ")");
CODE(fbstp_, "fbstp (" SI ")");
CODE(fnstenv_, "fnstenv (" SI ")");
CODE(fldenv_, "fldenv (" SI ")");
CODE(fnstcw_, "fnstcw (" SI ")");
CODE(movups_load, "movups (" SI "), %xmm0; movups %xmm0, (" BX ")");
CODE(movups_store, "movups %xmm0, (" SI ")");
CODE(movq_load, "movq (" SI "), %xmm0; movups %xmm0, (" BX ")");
CODE(movq_store, "movq %xmm0, (" SI ")");
CODE(movss_load, "movss (" SI "), %xmm0; movups %xmm0, (" BX ")");
CODE(movhps_store, "movhps %xmm0, (" SI ")");
CODE(cvtsi2sd_, "cvtsi2sdl (" SI "), %xmm0; movups %xmm0, (" BX ")");
CODE(avx_load, "vmovups (" SI "), %ymm0; vmovups %ymm0, (" BX ")");
CODE(avx_store, "vmovups %ymm0, (" SI ")");
CODE(avx_add, "vpaddb (" SI "), %ymm0, %ymm0; vmovups %ymm0, (" BX ")");
CODE(avx_xor16, "vpxor (" SI "), %xmm0, %xmm0; vmovups %ymm0, (" BX ")");
CODE(fxsave_, "fxsave (" SI ")");
#ifdef __x86_64__
CODE(load64, "movq (%rsi), %rax");
CODE(store64, "movq %rax, (%rsi)");
CODE(add64, "addq %rax, (%rsi)");
CODE(xchg64, "xchgq %rax, (%rsi)");
CODE(cmpxchg64, "lock cmpxchgq %rcx, (%rsi)");
CODE(r10_load, "movq (%rsi), %r10; movq %r10, %rax");
CODE(r9_store, "movq %r9, (%rsi)");
#endif
#define WORD sizeof(ulong)
#ifdef __x86_64__
#define Q "q"
#else
#define Q "l"
#endif
CODE(push_reg, "push " CX);
CODE(push_imm, "push" Q " $0x1234");
CODE(pop_reg, "pop " CX);
CODE(call_rel, "call 1f; 1:");
CODE(ret_, "ret");
CODE(ret_n, "ret $16");
CODE(pushf_, "pushf");

static const struct operand operands[] = {
    R(load16, 2),
    R(load32, 4),
    R(loadzx, 2),
    R(cmp32, 4),
    R(test32, 4),
    R(imul32, 4),
    R(bt32, 4),
    R(adc32, 4),
    R(cmov32, 4),
    R(lods32, 4),
    R(scas32, 4, .where = AT_DI),
    W(store16, 2),
    W(store32, 4),
    W(storeimm, 4),
    W(stos32, 4, .where = AT_DI),
    W(add32, 4),
    W(add16, 2),
    W(sbbimm, 4),
    W(not32, 4),
    W(inc32, 4),
    W(rol32, 4),
    W(shld32, 4),
    W(bts32, 4),
    W(xchg32, 4),
    W(xadd32, 4),
    W(cmpxchg32, 4),
    W(lockadd32, 4),
    W(lockcmpxchg32, 4),
    W(cmpxchg8, 8),
    W(sgdt_, 2 + WORD),
    R(callm, WORD, .content = POINTER),
    R(jmpm, WORD, .content = POINTER),
    R(lfs_, 6, .content = FAR),
    R(fld32, 4),
    R(fld64, 8),
    R(fld80, 10),
    R(fild64, 8),
    W(fst32, 4),
    W(fst64, 8),
    W(fstp80, 10),
    W(fistp64, 8),
    W(fbstp_, 10),
    W(fnstenv_, 28),
    R(fldenv_, 28, .content = X87),
    W(fnstcw_, 2),
    R(movups_load, 16, .needs = 1),
    W(movups_store, 16, .needs = 1),
    R(movq_load, 8, .needs = 1),
    W(movq_store, 8, .needs = 1),
    R(movss_load, 4, .needs = 1),
    W(movhps_store, 8, .needs = 1),
    R(cvtsi2sd_, 4, .needs = 1),
    R(avx_load, 32, .needs = 2),
    W(avx_store, 32, .needs = 2),
    R(avx_add, 32, .needs = 2),
    R(avx_xor16, 16, .needs = 2),
    W(fxsave_, 512, .needs = 1),
#ifdef __x86_64__
    R(load64, 8),
    W(store64, 8),
    W(add64, 8),
    W(xchg64, 8),
    W(cmpxchg64, 8),
    R(r10_load, 8),
    W(r9_store, 8),
#endif
    W(push_reg, WORD, .where = AT_PUSH),
    W(push_imm, WORD, .where = AT_PUSH),
    R(pop_reg, WORD, .where = AT_POP),
    W(call_rel, WORD, .where = AT_PUSH),
    R(ret_, WORD, .where = AT_POP, .content = POINTER),
    R(ret_n, WORD, .where = AT_POP, .content = POINTER),
    W(pushf_, WORD, .where = AT_PUSH),
};

static void units_prepare(void)
{
    static const u64 values[4] = {0x1122334455667788, 0x99aabbccddeeff00, 0x0123456789abcdef,
                                  0xfedcba9876543210};
    __asm__ volatile("fninit; fldpi");
    if (stress_avx)
        __asm__ volatile("vmovups %0, %%ymm0" : : "m"(values));
    else if (stress_sse)
        __asm__ volatile("movups %0, %%xmm0" : : "m"(values));
}

static void window_fill(u8 *window, const struct operand *o)
{
    stress_seed((u32)o->size * 77 + o->where);
    for (u32 i = 0; i < WINDOW; i += 4)
        *(u32 *)(window + i) = o->content == X87 ? 0 : stress_random();
    u8 *at = window + WINDOW / 2;
    if (o->content == POINTER || o->content == FAR)
        *(ulong *)at = (ulong)o->end;
    if (o->content == FAR)
        *(u16 *)(at + 4) = SEL_DATA3;
}

static const struct lab_trap *operand_run(const struct operand *o, struct lab_state *s,
                                          ulong address)
{
    ulong pointer = o->where == AT_PUSH ? address + o->size : address;
    if (o->where == AT_SI)
        s->gpr[6] = pointer;
    else if (o->where == AT_DI)
        s->gpr[7] = pointer;
    else
        s->sp = pointer;
    for (u32 i = 0; i < 64; i += 4)
        *(u32 *)(stress_physical(12) + i) = 0;
    units_prepare();
    return lab_enter(s);
}

struct outcome {
    ulong gpr[LAB_GPRS];
    u32 vector, flags;
    ulong ip;
    u8 window[WINDOW], result[64];
};

static void outcome_take(struct outcome *out, const struct lab_trap *t, const struct lab_state *s,
                         const u8 *window, ulong address)
{
    (void)s;
    out->vector = t->vector;
    out->flags = (u32)t->flags;
    out->ip = t->ip;
    for (u32 i = 0; i < LAB_GPRS; i++) // pointers by their distance
        out->gpr[i] = t->gpr[i] - address < 64 ? t->gpr[i] - address : t->gpr[i];
    for (u32 i = 0; i < WINDOW; i += 4)
        *(u32 *)(out->window + i) = *(const u32 *)(window + i);
    for (u32 i = 0; i < 64; i += 4)
        *(u32 *)(out->result + i) = *(const u32 *)(stress_physical(12) + i);
}

static bool same(const void *a, const void *b, u32 size)
{
    for (u32 i = 0; i < size; i += 4)
        if (*(const u32 *)((const u8 *)a + i) != *(const u32 *)((const u8 *)b + i))
            return false;
    return true;
}

static bool refused(u64 flags, bool user, bool write, u32 *error)
{
    *error = (flags & PAGE_P ? 1 : 0) | (write ? 2 : 0) | (user ? 4 : 0);
    return !(flags & PAGE_P) || (write && !(flags & PAGE_W)) || (user && !(flags & PAGE_U));
}

static void operand_case(const struct operand *o, bool user, u32 before, u64 first, u64 second,
                         const struct outcome *want)
{
    static struct outcome got;
    static u8 filled[WINDOW] __attribute__((aligned(4)));
    ulong border = stress_linear(DATA_PAGE + 1), address = border - before, cr2 = address;
    u8 *window = stress_physical(DATA_PAGE + 1) - before - WINDOW / 2;
    u32 error = 0;
    bool faults = before && refused(first, user, o->writes, &error);

    if (!faults && before < o->size && refused(second, user, o->writes, &error)) {
        faults = true;
        cr2 = before ? border : address;
    }
    window_fill(filled, o);
    for (u32 i = 0; i < WINDOW; i++) // (any alignment)
        window[i] = filled[i];
    stress_page(DATA_PAGE, DATA_PAGE, first);
    stress_page(DATA_PAGE + 1, DATA_PAGE + 1, second);
    struct lab_state s = base_state(user, (ulong)o->code);
    const struct lab_trap *t = operand_run(o, &s, address);
    const char *what = NULL;
    if (!t) {
        what = "no trap";
    } else if (faults) {
        bool unchanged = true;
        for (u32 i = 0; i < LAB_GPRS; i++)
            unchanged = unchanged && (i == 4 ? t->sp == s.sp : t->gpr[i] == s.gpr[i]);
        // (Images of hundreds of bytes may have begun.)
        for (u32 i = 0; i < WINDOW && o->size < 64; i++)
            unchanged = unchanged && window[i] == filled[i];
        // (Which page of an image of many parts is touched first is the processor's business.)
        bool loose = o->size == 28 || o->size == 512;
        u32 seen;
        if (loose && t->cr2 - address < o->size &&
            refused(t->cr2 < border ? first : second, user, o->writes, &seen)) {
            cr2 = t->cr2;
            error = seen;
        }
        what = t->vector != VEC_PF         ? "vector"
               : t->error != error         ? "error"
               : t->ip != (ulong)o->code   ? "ip"
               : t->cr2 != cr2             ? "cr2"
               : t->flags != (2 | FLAG_RF) ? "flags"
               : !unchanged                ? "something changed"
                                           : NULL;
    } else {
        u8 *back = window;
        for (u32 i = 0; i < WINDOW; i++)
            filled[i] = back[i];
        outcome_take(&got, t, &s, filled, address);
        what = got.vector != want->vector                            ? "vector"
               : got.ip != want->ip                                  ? "ip"
               : got.flags != want->flags                            ? "flags"
               : !same(got.gpr, want->gpr, sizeof(got.gpr))          ? "registers"
               : !same(got.window, want->window, WINDOW)             ? "memory"
               : !same(got.result, want->result, sizeof(got.result)) ? "result"
                                                                     : NULL;
    }
    if (what && stress_tell()) {
        lab_print("note: %s ring %u, %u bytes before the border, pages %llx %llx: %s; want %s cr2 "
                  "%lx error %x: ",
                  o->name, user ? 3u : 0u, before, first, second, what, faults ? "#PF" : "none",
                  cr2, error);
        lab_print_trap(t);
        lab_print("\n");
    }
    stress_check(!what);
}

static void operand_all(const struct operand *o, bool user)
{
    static struct outcome want;
    static u8 filled[WINDOW] __attribute__((aligned(4)));
    // Ring 0's exceptions need a stack that is there.
    if (!user && o->where >= AT_POP)
        return;
    if ((o->needs == 1 && !stress_sse) || (o->needs == 2 && !stress_avx))
        return;
    struct lab_state s = base_state(user, (ulong)o->code);
    window_fill(filled, o);
    u8 *middle = stress_physical(MIDDLE_FRAME) + (MIDDLE & 0xfff) - WINDOW / 2;
    for (u32 i = 0; i < WINDOW; i++)
        middle[i] = filled[i];
    const struct lab_trap *t = operand_run(o, &s, MIDDLE);
    if (!t || t->vector != VEC_UD) {
        lab_check(false, "%s: in the middle of a page", o->name);
        lab_print_trap(t);
        return;
    }
    outcome_take(&want, t, &s, middle, MIDDLE);
    u32 kinds = user ? 4 : 3, step = o->size > 64 ? 16 : 1;
    for (u32 before = 0; before <= o->size;
         before += before + step > o->size && before < o->size ? o->size - before : step)
        for (u32 k = 0; k < kinds * kinds; k++)
            operand_case(o, user, before, states[k % kinds].flags, states[k / kinds].flags, &want);
}

// REP string operations over the border: what lies before a fault is done.
static void repeated(bool user)
{
    for (u32 i = 0; i < stress_cases(600); i++) {
        static const u8 opcodes[] = {0xa4, 0xaa, 0xac, 0xae};
        u32 which = stress_below(4), log = stress_below(PROBE_LONG ? 4 : 3), size = 1u << log;
        u32 opcode = opcodes[which], count = 1 + stress_below(80), before = stress_below(200);
        u32 state = stress_below(user ? 4 : 3), error = 0;
        bool writes = which < 2, down = stress_chance(30), from = which == 2;
        ulong border = stress_linear(DATA_PAGE + 1);
        // SCAS for a value that is not there. The border is `before` bytes from the start.
        ulong start = down ? border + before - size : border - before;
        stress_at = (u8 *)STRESS_CODE + (i & 15) * 16;
        ulong code = (ulong)stress_at;
        put8(which == 3 ? 0xf2 : 0xf3);
        if (size == 2)
            put8(0x66);
        if (size == 8)
            put8(0x48);
        put8(opcode | (size > 1));
        put8(0x0f);
        put8(0x0b);
        u8 *data = stress_physical(DATA_PAGE);
        for (u32 k = 2048; k < 6144; k += 4)
            *(u32 *)(data + k) = 0x01010101;
        // The page that is run into has the state; the other is there.
        stress_page(DATA_PAGE, DATA_PAGE, states[down ? state : 0].flags);
        stress_page(DATA_PAGE + 1, DATA_PAGE + 1, states[down ? 0 : state].flags);
        struct lab_state s = base_state(user, code);
        s.gpr[0] = 0x5a5a5a5a;
        s.gpr[1] = count;
        s.gpr[6] = from ? start : MIDDLE;
        s.gpr[7] = start;
        s.flags = 2 | (down ? FLAG_DF : 0);
        u32 whole = before / size, done = count;
        ulong cr2 = 0;
        bool faults = false;
        if (refused(states[state].flags, user, writes, &error) && (before == 0 || whole < count)) {
            faults = before + size <= 200 || whole < count;
            done = whole;
            ulong at = down ? start - (ulong)whole * size : start + (ulong)whole * size;
            // The first element that touches the page: its own part of it.
            cr2 = down ? at : at < border ? border : at;
        }
        if (done > count)
            done = count, faults = false;
        const struct lab_trap *t = lab_enter(&s);
        ulong moved = down ? -(ulong)done * size : (ulong)done * size;
        bool ok = t && t->vector == (faults ? VEC_PF : VEC_UD) && t->gpr[1] == count - done &&
                  (t->gpr[7] == s.gpr[7] + (from ? 0 : moved)) &&
                  (from || which == 0 ? t->gpr[6] == s.gpr[6] + moved : t->gpr[6] == s.gpr[6]);
        if (ok && faults)
            ok = t->error == error && t->cr2 == cr2 && t->ip == code;
        if (which == 1 && ok) { // exactly what was done is stored
            u32 stored = 0;
            for (u32 k = 2048; k < 6144; k++)
                stored += data[k] == 0x5a;
            ok = size == 8 || stored == done * size;
        }
        if (!ok && stress_tell()) {
            lab_print("note: REP %x size %u ring %u, %s, %u turns, %u bytes before the border, "
                      "page %s, want %u done cr2 %lx error %x; cx %lx si %lx di %lx ",
                      opcode, size, user ? 3u : 0u, down ? "down" : "up", count, before,
                      states[state].name, done, cr2, error, t ? t->gpr[1] : 0, t ? t->gpr[6] : 0,
                      t ? t->gpr[7] : 0);
            lab_print_trap(t);
            lab_print("\n");
        }
        stress_check(ok);
    }
}

// --- instructions across a border ------------------------------------------------------------------------------

// EAX to EDX come out changed by what the immediates say.
static u32 instruction_make(u8 *out, u32 which, u32 value)
{
    stress_at = out;
    u32 prefixes = which / 16;
    while (prefixes--) // repeated prefixes that mean nothing here: up to 15 bytes
        put8(PROBE_LONG || (prefixes & 1) ? 0x3e : 0x36);
    switch (which % 16) {
    case 0:
        put8(0xb8);
        put32(value);
        break;
    case 1:
        put_bytes((const u8[]){0x81, 0xc1}, 2); // ADD ECX, imm32
        put32(value);
        break;
    case 2:
        put_bytes((const u8[]){0x66, 0x81, 0xc2, (u8)value, (u8)(value >> 8)}, 5);
        break;
    case 3:
        put_bytes((const u8[]){0x83, 0xd0, (u8)value}, 3); // ADC EAX, imm8
        break;
    case 4:
        put_bytes((const u8[]){0x69, 0xc1}, 2); // IMUL EAX, ECX, imm32
        put32(value);
        break;
    case 5: // MOV dword [BX], imm32
        put_bytes((const u8[]){0xc7, 0x03}, 2);
        put32(value);
        break;
    case 6: // ADD dword [BX + disp32], imm32
        put_bytes((const u8[]){0x81, 0x83, (u8)(value & 0x3c), 0, 0, 0}, 6);
        put32(value);
        break;
    case 7:
        put_bytes((const u8[]){0x8d, 0x84, 0x8a}, 3); // LEA EAX, [DX + CX * 4 + disp32]
        put32(value);
        break;
    case 8:
        put_bytes((const u8[]){0x0f, 0xa4, 0xc8, (u8)(value & 31)}, 4); // SHLD
        break;
    case 9:
        put8(0x68); // PUSH imm32, POP: two instructions
        put32(value);
        break;
    case 10:
        put_bytes((const u8[]){0x0f, 0xc8}, 2); // BSWAP
        break;
    case 11:
        put_bytes((const u8[]){0x0f, 0xb6, 0x43, (u8)(value & 31)}, 4); // MOVZX EAX, [BX + disp8]
        break;
    case 12:
        put_bytes((const u8[]){0xf0, 0x0f, 0xc1, 0x43, (u8)(value & 28)},
                  5); // LOCK XADD [BX + disp8]
        break;
    case 13:
        put_bytes((const u8[]){0x66, 0xc7, 0x43, (u8)(value & 28), (u8)value, (u8)(value >> 8)}, 6);
        break;
    case 14:
        if (PROBE_LONG) { // MOV RAX, imm64
            put_bytes((const u8[]){0x48, 0xb8}, 2);
            put32(value);
            put32(~value);
        } else {
            put_bytes((const u8[]){0xc8, 0, 0, 0}, 4); // ENTER
        }
        break;
    default:
        put_bytes((const u8[]){0x0f, 0x94, 0x43, (u8)(value & 31)}, 4); // SETE [BX + disp8]
    }
    u32 length = (u32)(stress_at - out);
    put8(0x0f);
    put8(0x0b);
    return length;
}

static void instruction_case(u32 which, bool user)
{
    static u8 bytes[32];
    static struct lab_trap middle;
    static u32 result[16];
    u32 value = (u32)stress_word(), length;
    u8 *code = stress_physical(CODE_PAGE);
    // 15 bytes are the limit; LOCK comes first in its own.
    while ((length = instruction_make(bytes, which, value)) > 15)
        which -= 16;
    ulong border = stress_linear(CODE_PAGE + 1), elsewhere = STRESS_CODE + 0x1000;
    for (u32 i = 0; i < length + 2; i++)
        ((u8 *)elsewhere)[i] = bytes[i];
    struct lab_state s = base_state(user, elsewhere);
    for (u32 i = 0; i < 16; i++)
        ((u32 *)stress_physical(12))[i] = i * 0x1357;
    const struct lab_trap *t = lab_enter(&s);
    if (!t || t->vector != VEC_UD) {
        lab_check(false, "instruction %u in the middle of a page", which);
        return;
    }
    middle = *t;
    for (u32 i = 0; i < 16; i++)
        result[i] = ((u32 *)stress_physical(12))[i];
    for (u32 before = 1; before <= length; before++) {
        for (u32 i = 0; i < length + 2; i++)
            code[4096 - before + i] = bytes[i];
        // There, then taken away, then there again: what was learnt about the code must not be believed.
        for (u32 k = 0; k < 7; k++) {
            static const u8 order[] = {0, 1, 0, 4, 3, 0, 0};
            u32 state = order[k];
            if ((state == 4 && !stress_nx) || (state == 3 && !user))
                continue;
            bool changed = k == 6; // another physical page with another immediate
            u32 frame = changed ? 30 : CODE_PAGE + 1;
            if (changed) {
                for (u32 i = 0; i < 32; i++)
                    stress_physical(30)[i] = stress_physical(CODE_PAGE + 1)[i];
                if (which % 16 != 0 || before < 1 || length - before < 4)
                    continue;
                stress_physical(30)[length - before - 4] ^= 0x55;
            }
            stress_page(CODE_PAGE + 1, frame, states[state].flags);
            for (u32 i = 0; i < 16; i++)
                ((u32 *)stress_physical(12))[i] = i * 0x1357;
            s.ip = border - before;
            t = lab_enter(&s);
            const char *what;
            u64 flags = states[state].flags;
            bool faults = state != 0;
            // Where the instruction ends at the border it runs; the fault is the next one's.
            bool runs = !faults || before == length;
            bool unchanged = true;
            for (u32 i = 0; t && i < LAB_GPRS; i++)
                if (i != 4 &&
                    t->gpr[i] != (runs ? middle.gpr[i] ^ (changed && i == 0 ? 0x55 : 0) : s.gpr[i]))
                    unchanged = false;
            for (u32 i = 0; i < 16; i++)
                if (((u32 *)stress_physical(12))[i] != (runs ? result[i] : i * 0x1357))
                    unchanged = false;
            u32 error = (flags & PAGE_P ? 1 : 0) | (user ? 4 : 0) | (stress_nx ? 16 : 0);
            what = !t                                                             ? "no trap"
                   : t->vector != (faults ? (u32)VEC_PF : (u32)VEC_UD)            ? "vector"
                   : t->ip != (runs ? border - before + length : border - before) ? "ip"
                   : faults && t->cr2 != border                                   ? "cr2"
                   : faults && t->error != error                                  ? "error"
                   : t->flags != (runs ? middle.flags : (2 | FLAG_RF))            ? "flags"
                   : !unchanged ? "registers or memory"
                                : NULL;
            if (what && stress_tell()) {
                lab_print("note: instruction %u of %u bytes, %u before the border, ring %u, next "
                          "page %s: %s: ",
                          which, length, before, user ? 3u : 0u, states[state].name, what);
                lab_print_trap(t);
                lab_print("\n");
            }
            stress_check(!what);
        }
    }
    stress_page(CODE_PAGE + 1, CODE_PAGE + 1, STRESS_RW);
}

// --- branches to the last byte ---------------------------------------------------------------------------------

// To INC EAX's one byte (a NOP in long mode) or the first byte of a longer instruction; then on into the next page.
static void branch_case(u32 kind, u32 next_state, bool user)
{
    ulong border = stress_linear(CODE_PAGE + 1), target = border - 1;
    u8 *first = stress_physical(CODE_PAGE), *second = stress_physical(CODE_PAGE + 1);
    bool longer = stress_chance(50);
    u32 value = stress_random();
    first[4095] = longer ? 0xb8 : PROBE_LONG ? 0xf9 : 0x40; // MOV EAX; STC; INC EAX
    stress_at = second;
    if (longer)
        put32(value);
    put8(0x0f);
    put8(0x0b);
    ulong from = stress_linear(CODE_PAGE) + 0x100 + kind * 32;
    stress_at = first + 0x100 + kind * 32;
    struct lab_state s = base_state(user, from);
    s.gpr[1] = target;
    s.gpr[3] = RESULT;
    *(ulong *)stress_physical(12) = target;
    u32 rel = (u32)(target - from);
    switch (kind) {
    case 0:
        put8(0xe9);
        put32(rel - 5);
        break;
    case 1:
        put8(0xe8);
        put32(rel - 5);
        break;
    case 2: // JNS: SF is clear
        put_bytes((const u8[]){0x0f, 0x89}, 2);
        put32(rel - 6);
        break;
    case 3:
        put_bytes((const u8[]){0xff, 0xe1}, 2);
        break;
    case 4:
        put_bytes((const u8[]){0xff, 0x13}, 2);
        break;
    default:
        put_bytes((const u8[]){0x51, 0xc3}, 2);
    }
    u64 flags = states[next_state].flags;
    stress_page(CODE_PAGE + 1, CODE_PAGE + 1, flags);
    const struct lab_trap *t = lab_enter(&s);
    bool faults = next_state != 0;
    u32 error = (flags & PAGE_P ? 1 : 0) | (user ? 4 : 0) | (stress_nx ? 16 : 0);
    ulong ax = s.gpr[0], ip = border;
    if (longer && !faults)
        ax = value, ip = border + 4;
    else if (longer)
        ip = target;
    else if (!PROBE_LONG)
        ax++;
    bool ok = t && t->vector == (faults ? VEC_PF : VEC_UD) && t->ip == ip && t->gpr[0] == ax;
    if (ok && faults)
        ok = t->cr2 == border && t->error == error;
    if (ok && !longer && PROBE_LONG)
        ok = t->flags & FLAG_CF;
    if (!ok && stress_tell()) {
        lab_print(
            "note: branch %u to the last byte, next page %s, ring %u, %s: want ip %lx ax %lx: ",
            kind, states[next_state].name, user ? 3u : 0u, longer ? "MOV" : "one byte", ip, ax);
        lab_print_trap(t);
        lab_print("\n");
    }
    stress_check(ok);
}

int main(void)
{
    stress_begin();
    for (u32 i = 0; i < 2; i++) {
        bool user = !i;
        lab_section(user ? "operands, ring 3" : "operands, ring 0");
        for (u32 k = 0; k < sizeof(operands) / sizeof(operands[0]); k++)
            operand_all(&operands[k], user);
        lab_section(user ? "REP, ring 3" : "REP, ring 0");
        repeated(user);
        lab_section(user ? "instructions, ring 3" : "instructions, ring 0");
        for (u32 k = 0; k < stress_cases(176); k++)
            instruction_case(k % 176, user);
        lab_section(user ? "last byte, ring 3" : "last byte, ring 0");
        for (u32 k = 0; k < stress_cases(600); k++) {
            static const u8 order[] = {0, 1, 0, 4, 3};
            u32 state = order[stress_below(5)];
            if ((state == 4 && !stress_nx) || (state == 3 && !user))
                state = 1;
            branch_case(stress_below(6), state, user);
        }
    }
    return 0;
}
