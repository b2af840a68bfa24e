// SPDX-License-Identifier: Apache-2.0
// Code pages that move: functions call, jump, return and fall through into pages whose physical page is changed
// between (and within) the runs, by INVLPG, CR3, PCIDs, global pages, CR4.PGE and large pages; rights change too.
// Every flush that the manuals ask for is made (SDM vol. 3A, 4.10.4), so the newest mapping must count, every time.
//
// The region under test has PAGES pages in two address spaces. Each physical page ("frame") holds the same routines
// at the same offsets, but for its own number in them: what comes back tells which ones ran.
#include "stress.h"

#define REGION 0x40000000ul
#define PAGES 24u
#define FRAMES 32u
#ifdef __x86_64__
typedef u64 entry;
#define ENTRIES 512
#define LARGE (REGION + 0x200000)
#define SP "rsp"
#define BX "rbx"
#else
typedef u32 entry;
#define ENTRIES 1024
#define LARGE (REGION + 0x400000)
#define SP "esp"
#define BX "ebx"
#endif
#define LARGE_FRAME 1024u // the second large page's first frame

enum {
    AT_STRADDLE_REST = 0, // the end of MOV EAX, and RET
    AT_ID = 0x10,
    AT_WHERE = 0x30,
    AT_DATA = 0x50,
    AT_SELF = 0x80,       // [DI] = DX, INVLPG [SI], then its own number
    AT_CALL_REMAP = 0xb0, // the same done by what CX points to
    AT_REMAP = 0xe0,      // that: [DI] = DX, INVLPG [SI], RET
    AT_CR3 = 0x110,       // CR3 = DX, then its own number
    AT_COUNT = 0x140,     // EAX = EAX * 5 + its own number
    AT_CALLERS = 0x200,   // 32 bytes each
    AT_STRADDLE = 0xffd,
};
enum caller {
    CALL_DIRECT,
    JUMP_DIRECT,
    JUMP_CONDITION,
    CALL_TWICE, // and once more after that
    CALL_REGISTER,
    JUMP_REGISTER,
    CALL_MEMORY, // [BX]
    BY_RETURN,
    CALLERS
};
static const char *const caller_names[] = {
    "call", "jmp", "jz", "call twice", "call register", "jmp register", "call memory", "ret"};
#define DISTANCES 3u

static entry table[2][ENTRIES] __attribute__((aligned(4096)));
static entry large_table[ENTRIES] __attribute__((aligned(4096)));
static entry root2[ENTRIES] __attribute__((aligned(4096)));
static entry *large_entry[2]; // of the directories
#ifdef __x86_64__
static u64 pdpt2[512] __attribute__((aligned(4096)));
static u64 pd2[512] __attribute__((aligned(4096)));
#endif
static ulong root[2];
static u32 space; // the current one
static struct {
    u32 frame;
    u64 flags;
} map[2][PAGES];
static bool use_pcid, pge, dirty[2]; // dirty: changed while the other space was current

static entry make(u32 frame, u64 flags)
{
    return (entry)(flags & PAGE_P ? (STRESS_PHYSICAL + frame * 4096ul) | flags : 0);
}

// --- the frames' code ---------------------------------------------------------------------------------------

static void at(u32 frame, u32 offset)
{
    stress_at = stress_physical(frame) + offset;
}

static void put_id(u32 frame)
{
    put8(0xb8);
    put32(frame);
    put8(0xc3);
}

static void put_relative(u32 frame, u32 here_page_distance, u32 offset)
{
    // The distance holds wherever the frame is mapped.
    ulong next = (ulong)stress_at + 4 - (ulong)stress_physical(frame);
    put32((u32)(here_page_distance * 4096 + offset - next));
}

static void put_caller(u32 frame, u32 kind, u32 distance)
{
    switch (kind) {
    case CALL_TWICE:
        put8(0xe8);
        put_relative(frame, distance, AT_ID);
        // fall through
    case CALL_DIRECT:
        put8(0xe8);
        put_relative(frame, distance, AT_ID);
        break;
    case JUMP_DIRECT:
        put8(0xe9);
        put_relative(frame, distance, AT_ID);
        return;
    case JUMP_CONDITION:
        put_bytes((const u8[]){0x31, 0xc0, 0x0f, 0x84}, 4);
        put_relative(frame, distance, AT_ID);
        return;
    case CALL_REGISTER:
        put_bytes((const u8[]){0xff, 0xd1}, 2);
        break;
    case JUMP_REGISTER:
        put_bytes((const u8[]){0xff, 0xe1}, 2);
        return;
    case CALL_MEMORY:
        put_bytes((const u8[]){0xff, 0x13}, 2);
        break;
    default:
        put_bytes((const u8[]){0x51, 0xc3}, 2);
        return;
    }
    put8(0x0d); // OR EAX, frame << 16
    put32(frame << 16);
    put8(0xc3);
}

static void put_remap(void) // MOV [DI], DX; INVLPG [SI]
{
    if (PROBE_LONG)
        put8(0x48);
    put_bytes((const u8[]){0x89, 0x17, 0x0f, 0x01, 0x3e}, 5);
}

static void frame_fill(u32 frame)
{
    at(frame, AT_STRADDLE_REST);
    put8(frame);
    put8(0);
    put8(0xc3);
    at(frame, AT_STRADDLE);
    put8(0xb8);
    put8(frame);
    put8(frame >> 8);
    at(frame, AT_ID);
    put_id(frame);
    at(frame, AT_WHERE);
    if (PROBE_LONG) // LEA RAX, [RIP + 0]
        put_bytes((const u8[]){0x48, 0x8d, 0x05, 0, 0, 0, 0, 0xc3}, 8);
    else
        put_bytes((const u8[]){0xe8, 0, 0, 0, 0, 0x58, 0xc3}, 7);
    at(frame, AT_DATA);
    if (PROBE_LONG)
        put_bytes((const u8[]){0x8b, 0x05, 1, 0, 0, 0, 0xc3}, 7);
    else // CALL, POP, MOV EAX, [EAX + 5], RET
        put_bytes((const u8[]){0xe8, 0, 0, 0, 0, 0x58, 0x8b, 0x40, 5, 0xc3}, 10);
    put32(frame ^ 0xabcd0000);
    at(frame, AT_SELF);
    put_remap();
    put_id(frame);
    at(frame, AT_CALL_REMAP);
    put_bytes((const u8[]){0xff, 0xd1}, 2);
    put_id(frame);
    at(frame, AT_REMAP);
    put_remap();
    put8(0xc3);
    at(frame, AT_CR3);
    put_bytes((const u8[]){0x0f, 0x22, 0xda}, 3);
    put_id(frame);
    at(frame, AT_COUNT);
    put_bytes((const u8[]){0x8d, 0x84, 0x80}, 3); // LEA EAX, [AX + AX * 4 + frame]
    put32(frame);
    put8(0xc3);
    for (u32 kind = 0; kind < CALLERS; kind++)
        for (u32 d = 1; d <= DISTANCES; d++) {
            at(frame, AT_CALLERS + (kind * 4 + d) * 32);
            put_caller(frame, kind, d);
        }
}

// --- mapping -------------------------------------------------------------------------------------------------

static ulong page_address(u32 page)
{
    return REGION + page * 4096ul;
}

static ulong cr3_of(u32 s)
{
    return root[s] | (use_pcid ? s + 1 : 0);
}

static void go_to(u32 s)
{
    ulong cr3 = cr3_of(s);
#ifdef __x86_64__
    if (use_pcid && !dirty[s])
        cr3 |= (ulong)stress_below(2) << 63;
#endif
    lab_set_cr3(cr3);
    dirty[s] = false;
    space = s;
}

// Everything that may be remembered goes, by one of the ways that do it.
static void flush(u32 s, u32 page, bool global)
{
    if (s != space && !global) {
        dirty[s] = true; // without PCIDs the next CR3 does it anyway
        return;
    }
    switch (stress_below(global ? 2 : 3)) {
    case 0:
        if (pge) {
            lab_set_cr4(lab_cr4() & ~0x80ul);
            lab_set_cr4(lab_cr4() | 0x80);
            break;
        }
        // fall through
    case 1:
        lab_invlpg(page_address(page) + stress_below(4096));
        break;
    default:
        lab_set_cr3(cr3_of(space));
    }
}

static void entry_put(u32 s, u32 page, u32 frame, u64 flags)
{
    map[s][page].frame = frame;
    map[s][page].flags = flags;
    table[s][page] = make(frame, flags);
}

static void remap(u32 s, u32 page, u32 frame, u64 flags)
{
    bool was_global = map[s][page].flags & 0x100, global = flags & 0x100;
    entry_put(s, page, frame, flags);
    if (was_global || global) // the same in both
        entry_put(!s, page, frame, flags);
    flush(s, page, was_global || global);
    if ((was_global || global) && use_pcid)
        dirty[!space] = true;
}

static void plain(u32 s, u32 page) // with all rights, not global
{
    if (map[s][page].flags != STRESS_RW)
        remap(s, page, map[s][page].frame, STRESS_RW);
}

// --- calls --------------------------------------------------------------------------------------------------

static ulong pointer; // [BX] of CALL_MEMORY

static u32 call(ulong address, ulong cx, ulong dx, ulong si, ulong di)
{
    ulong bx = (ulong)&pointer;
    __asm__ volatile("call *%0"
                     : "+a"(address), "+c"(cx), "+d"(dx), "+S"(si), "+D"(di), "+b"(bx)
                     :
                     : "memory", "cc");
    return (u32)address;
}

static u32 model_caller(u32 kind, u32 from, u32 to)
{
    bool adds =
        kind == CALL_DIRECT || kind == CALL_TWICE || kind == CALL_REGISTER || kind == CALL_MEMORY;
    return map[space][to].frame | (adds ? map[space][from].frame << 16 : 0);
}

static void expect(const char *what, u32 page, u32 got, u32 want)
{
    if (got != want && stress_tell())
        lab_print("note: %s in page %u of space %u: got %x, want %x\n", what, page, space, got,
                  want);
    stress_check(got == want);
}

static void try_caller(void)
{
    u32 kind = stress_below(CALLERS), d = 1 + stress_below(DISTANCES);
    u32 page = stress_below(PAGES - DISTANCES), to = page + d;
    u32 routine = AT_CALLERS + (kind * 4 + d) * 32;
    plain(space, page);
    plain(space, to);
    pointer = page_address(to) + AT_ID;
    u32 got = call(page_address(page) + routine, pointer, 0, 0, 0);
    expect(caller_names[kind], page, got, model_caller(kind, page, to));
}

static void try_routine(void)
{
    u32 page = stress_below(PAGES - 1), other = stress_below(PAGES), s = space;
    u32 old = map[s][page].frame, frame = stress_below(FRAMES);
    plain(s, page);
    ulong base = page_address(page);
    switch (stress_below(7)) {
    case 0:
        expect("id", page, call(base + AT_ID, 0, 0, 0, 0), old);
        break;
    case 1:
        expect("address", page, call(base + AT_WHERE, 0, 0, 0, 0),
               (u32)base + AT_WHERE + (PROBE_LONG ? 7 : 5));
        break;
    case 2:
        expect("data", page, call(base + AT_DATA, 0, 0, 0, 0), old ^ 0xabcd0000);
        break;
    case 3:
        plain(s, page + 1);
        expect("MOV across", page, call(base + AT_STRADDLE, 0, 0, 0, 0),
               old | map[s][page + 1].frame << 16);
        break;
    case 4: // moves itself
        map[s][page].frame = frame;
        expect("own page", page,
               call(base + AT_SELF, 0, make(frame, STRESS_RW), base, (ulong)&table[s][page]),
               frame);
        break;
    case 5: // moves where it returns to
        if (other == page)
            break;
        plain(s, other);
        map[s][page].frame = frame;
        expect("return into a page that moved", page,
               call(base + AT_CALL_REMAP, page_address(other) + AT_REMAP, make(frame, STRESS_RW),
                    base, (ulong)&table[s][page]),
               frame);
        break;
    default: // changes the space under itself
        plain(!s, page);
        space = !s;
        dirty[!s] = false;
        expect("CR3", page, call(base + AT_CR3, 0, cr3_of(!s), 0, 0), map[!s][page].frame);
    }
}

static void change(void)
{
    u32 s = stress_below(4) ? space : !space, page = stress_below(PAGES);
    remap(s, page, stress_below(FRAMES), STRESS_RW | (pge && stress_chance(20) ? 0x100 : 0));
}

// --- rights -------------------------------------------------------------------------------------------------

static u8 user_stack[256] __attribute__((aligned(16)));

// Why an instruction of this page cannot be fetched; 0: it can.
static bool refused(u32 page, bool user, u32 *error)
{
    u64 flags = map[space][page].flags;
    bool bad = !(flags & PAGE_P) || (user && !(flags & PAGE_U)) || (flags & STRESS_NX);
    *error = (flags & PAGE_P ? 1 : 0) | (user ? 4 : 0) | (stress_nx ? 0x10 : 0);
    return bad;
}

static void try_rights(void)
{
    static const u64 rights[] = {
        STRESS_RW, STRESS_RW, 0, PAGE_P | PAGE_W, STRESS_RW | STRESS_NX, PAGE_P | PAGE_U};
    u32 kind = stress_below(CALLERS + 1), d = 1 + stress_below(DISTANCES);
    u32 page = stress_below(PAGES - DISTANCES);
    bool user = stress_chance(60), straddle = kind == CALLERS;
    u32 to = straddle ? page + 1 : page + d, error;
    for (u32 i = 0; i < 2; i++) {
        u64 flags = rights[stress_below(6)];
        if (!stress_nx)
            flags &= ~STRESS_NX;
        if (stress_chance(60))
            remap(space, i ? to : page, stress_below(FRAMES), flags);
    }
    ulong start =
        page_address(page) + (straddle ? (ulong)AT_STRADDLE : AT_CALLERS + (kind * 4 + d) * 32ul);
    struct lab_state s = {.ip = start,
                          .cs = user ? SEL_CODE3 : SEL_CODE0,
                          .flags = 2,
                          .sp = (ulong)(user_stack + sizeof(user_stack) - 64),
                          .ss = user ? SEL_DATA3 : SEL_DATA0};
    s.ds = s.es = s.fs = s.gs = s.ss;
    pointer = page_address(to) + AT_ID;
    s.gpr[1] = pointer;
    s.gpr[3] = (ulong)&pointer;
    *(ulong *)s.sp = STRESS_CODE; // UD2
    const struct lab_trap *t = lab_enter(&s);
    bool ok;
    ulong ip = STRESS_CODE;
    if (refused(page, user, &error) || refused(to, user, &error)) {
        bool first = refused(page, user, &error);
        if (!first)
            refused(to, user, &error);
        ip = first || straddle ? start : pointer;
        ulong cr2 = first ? start : straddle ? page_address(to) : pointer;
        ok = t && t->vector == VEC_PF && t->error == error && t->cr2 == cr2 && t->ip == ip;
    } else {
        u32 want = straddle ? map[space][page].frame | map[space][to].frame << 16
                            : model_caller(kind, page, to);
        ok = t && t->vector == VEC_UD && t->ip == ip && t->gpr[0] == want;
        error = 0;
    }
    if (!ok && stress_tell())
        lab_print("note: %s from page %u (%llx) to %u (%llx), ring %u: vector %u error %x cr2 %lx "
                  "ip %lx ax %lx, want error %x, ip %lx\n",
                  straddle ? "straddling" : caller_names[kind], page, map[space][page].flags, to,
                  map[space][to].flags, user ? 3u : 0u, t ? t->vector : 0, t ? t->error : 0,
                  t ? t->cr2 : 0, t ? t->ip : 0, t ? t->gpr[0] : 0, error, ip);
    stress_check(ok);
}

// --- large pages ---------------------------------------------------------------------------------------------

static void large_pages(void)
{
    u32 first = 0; // frame at the start
    bool split = false;
    u32 frame[8];
    for (u32 i = 0; i < 8; i++)
        frame[i] = i;
    if (!PROBE_LONG)
        lab_set_cr4(lab_cr4() | 0x10);
    for (u32 i = 0; i < stress_cases(1500); i++) {
        u32 page = stress_below(8);
        if (i == 0 || stress_chance(30)) {
            split = stress_chance(50);
            first = stress_chance(50) ? LARGE_FRAME : 0;
            for (u32 k = 0; k < ENTRIES; k++)
                large_table[k] = make(first + k, STRESS_RW);
            for (u32 k = 0; k < 8; k++)
                frame[k] = first + k;
            entry e = split ? (entry)(ulong)large_table | STRESS_RW : make(first, STRESS_RW | 0x80);
            *large_entry[0] = *large_entry[1] = e;
            // One INVLPG is enough for a large page; a table's pages may each be remembered.
            lab_set_cr3(cr3_of(space));
            dirty[!space] = true;
        } else if (split && stress_chance(40)) {
            frame[page] = stress_chance(50) ? page : LARGE_FRAME + page;
            large_table[page] = make(frame[page], STRESS_RW);
            lab_invlpg(LARGE + page * 4096ul);
            dirty[!space] = true;
        } else if (stress_chance(10)) {
            go_to(!space);
        }
        u32 to = page < 7 ? page + 1 : 7;
        u32 got = call(LARGE + page * 4096ul + AT_ID, 0, 0, 0, 0);
        expect("large page: id", page, got, frame[page]);
        if (to == page)
            continue;
        got = call(LARGE + page * 4096ul + AT_CALLERS + 32, 0, 0, 0, 0);
        expect("large page: call", page, got, frame[to] | frame[page] << 16);
    }
}

// --- stacks that the guest switches -----------------------------------------------------------------------------

// A chain of return addresses into pages that move: each routine's RET goes to the next one, without any CALL.
static void returns(void)
{
    static ulong stack[40];
    lab_section("chains of returns");
    for (u32 i = 0; i < stress_cases(1500); i++) {
        u32 n = 1 + stress_below(30), sum = 0;
        for (u32 k = 0; k < n; k++) {
            u32 page = stress_below(PAGES);
            if (stress_chance(30))
                change();
            plain(space, page);
            stack[k] = page_address(page) + AT_COUNT;
        }
        for (u32 k = 0; k < n; k++) // (a global page may have changed since)
            plain(space, (u32)((stack[k] - REGION) >> 12));
        for (u32 k = 0; k < n; k++)
            sum = sum * 5 + map[space][(stack[k] - REGION) >> 12].frame;
        stack[n] = STRESS_CODE + 16; // MOV SP, BX; RET
        ulong ax = 0, sp = (ulong)stack;
        __asm__ volatile("call 1f\n"
                         "jmp 2f\n"
                         "1: mov %%" SP ", %%" BX "\n"
                         "mov %1, %%" SP "\n"
                         "ret\n"
                         "2:\n"
                         : "+a"(ax)
                         : "r"(sp)
                         : BX, "memory", "cc");
        expect("chain of returns", n, (u32)ax, sum);
    }
}

static void steps(const char *name, u32 cases, void (*extra)(void))
{
    lab_section(name);
    for (u32 i = 0; i < stress_cases(cases); i++) {
        if (stress_chance(35))
            change();
        if (stress_chance(10))
            go_to(!space);
        if (extra && stress_chance(50))
            extra();
        else if (stress_chance(60))
            try_caller();
        else
            try_routine();
    }
}

static void tables_make(void)
{
    for (u32 i = 0; i < FRAMES; i++)
        frame_fill(i);
    for (u32 i = 0; i < 8; i++)
        frame_fill(LARGE_FRAME + i);
    root[0] = lab_cr3();
    root[1] = (ulong)root2;
#ifdef __x86_64__
    for (u32 i = 0; i < 512; i++) {
        root2[i] = lab_pml4[i];
        pdpt2[i] = lab_pdpt[i];
        pd2[i] = lab_pd[512 + i];
    }
    root2[0] = (ulong)pdpt2 | 7;
    pdpt2[1] = (ulong)pd2 | 7;
    lab_pd[512] = (ulong)table[0] | 7;
    pd2[0] = (ulong)table[1] | 7;
    large_entry[0] = &lab_pd[513];
    large_entry[1] = &pd2[1];
#else
    u32 *root1 = (u32 *)root[0];
    for (u32 i = 0; i < 1024; i++)
        root2[i] = root1[i];
    root1[REGION >> 22] = (u32)table[0] | 7;
    root2[REGION >> 22] = (u32)table[1] | 7;
    large_entry[0] = &root1[LARGE >> 22];
    large_entry[1] = &root2[LARGE >> 22];
#endif
    lab_set_cr3(root[0]);
    for (u32 s = 0; s < 2; s++)
        for (u32 p = 0; p < PAGES; p++)
            entry_put(s, p, stress_below(FRAMES), STRESS_RW);
    *(u16 *)STRESS_CODE = 0x0b0f;
    stress_at = (u8 *)STRESS_CODE + 16;
    if (PROBE_LONG)
        put8(0x48);
    put_bytes((const u8[]){0x89, 0xdc, 0xc3}, 3);
}

int main(void)
{
    stress_begin();
    tables_make();
    steps("remapped", 40000, NULL);
    steps("rights", 40000, try_rights);
    if (lab_has(1, 0, 3, 13)) {
        lab_set_cr4(lab_cr4() | 0x80);
        pge = true;
        steps("global pages", 40000, NULL);
        steps("global pages and rights", 20000, try_rights);
    }
    returns();
    lab_section("large pages");
    large_pages();
    if (PROBE_LONG && lab_has(1, 0, 2, 17)) {
        go_to(0);
        lab_set_cr4(lab_cr4() | 1ul << 17);
        use_pcid = true;
        dirty[0] = dirty[1] = true;
        go_to(0);
        steps("PCID", 40000, NULL);
        steps("PCID and rights", 20000, try_rights);
        lab_section("large pages with PCID");
        large_pages();
    }
    return 0;
}
