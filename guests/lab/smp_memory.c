// SPDX-License-Identifier: Apache-2.0
// Locked operations of all processors on the same memory (SDM vol. 3A, 8.1.2), aligned and across cache lines and
// pages; and the order in which their stores are seen (8.2.3): what is forbidden never happens.
#include "smp.h"

#define ROUNDS 1500

static u8 arena[3 * 4096] __attribute__((aligned(4096)));
static volatile u32 *word; // shared by all
static volatile u64 *wide; // shared by all
static volatile u32 wrong[CPUS_MAX];
static volatile u32 spin;
static u32 plain;

static void add(u32 index)
{
    u32 expected = 0;
    barrier();
    for (u32 i = 0; i < ROUNDS; i++) {
        u32 one = 1;
        __asm__ volatile("lock addl $1, %0" : "+m"(*word) : : "memory");
        __asm__ volatile("lock xaddl %0, %1" : "+r"(one), "+m"(*word) : : "memory");
        __asm__ volatile("lock incl %0; lock subl $1, %0; lock decl %0" : "+m"(*word) : : "memory");
        expected = *word;
        for (;;) {
            u32 old = expected, new = old + 1;
            __asm__ volatile("lock cmpxchgl %2, %1" : "+a"(old), "+m"(*word) : "r"(new) : "memory");
            if (old == expected)
                break;
            expected = old;
        }
    }
    (void)index;
}

static void add_wide(u32 index)
{
    (void)index;
    barrier();
    for (u32 i = 0; i < ROUNDS; i++) {
        u64 old = *wide;
        for (;;) {
            u64 new = old + 0x100000001ull, seen = old;
            __asm__ volatile("lock cmpxchg8b %1"
                             : "+A"(seen), "+m"(*wide)
                             : "b"((u32) new), "c"((u32)(new >> 32))
                             : "memory");
            if (seen == old)
                break;
            old = seen;
        }
    }
}

// Each processor has a bit of its own in the word; only it changes that bit.
static void bits(u32 index)
{
    u32 mine = index * 5 + 1;
    barrier();
    for (u32 i = 0; i < ROUNDS; i++) {
        u8 before;
        __asm__ volatile("lock btsl %2, %0; setc %1"
                         : "+m"(*word), "=q"(before)
                         : "r"(mine)
                         : "memory");
        wrong[index] += before;
        wrong[index] += !(*word >> mine & 1);
        __asm__ volatile("lock btrl %2, %0; setc %1"
                         : "+m"(*word), "=q"(before)
                         : "r"(mine)
                         : "memory");
        wrong[index] += !before;
        __asm__ volatile("lock btcl %2, %0; setc %1"
                         : "+m"(*word), "=q"(before)
                         : "r"(mine)
                         : "memory");
        wrong[index] += before;
        __asm__ volatile("lock xorl %1, %0" : "+m"(*word) : "r"(1u << mine) : "memory");
        __asm__ volatile("lock orl %1, %0" : "+m"(*word) : "r"(1u << mine) : "memory");
        wrong[index] += !(*word >> mine & 1);
        __asm__ volatile("lock andl %1, %0" : "+m"(*word) : "r"(~(1u << mine)) : "memory");
        wrong[index] += *word >> mine & 1;
        __asm__ volatile("lock notb %0; lock notb %0; lock negl %1; lock negl %1"
                         : "+m"(*((volatile u8 *)word + 100 + index)), "+m"(*(word + 40 + index))
                         :
                         : "memory");
    }
}

// XCHG, which locks without the prefix, as a spin lock around a plain counter.
static void exchange(u32 index)
{
    (void)index;
    barrier();
    for (u32 i = 0; i < ROUNDS / 4; i++) {
        u32 taken;
        do {
            taken = 1;
            __asm__ volatile("xchgl %0, %1" : "+r"(taken), "+m"(spin) : : "memory");
            if (taken)
                __asm__ volatile("pause");
        } while (taken);
        plain++;
        __asm__ volatile("" : : : "memory");
        spin = 0;
    }
}

void smp_memory(void)
{
    static const struct {
        const char *name;
        u16 offset;
    } places[] = {
        {"aligned", 64}, {"inside of a line", 129}, {"across lines", 62}, {"across pages", 4094}};
    for (u32 i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        word = (volatile u32 *)(arena + places[i].offset);
        *word = 0;
        lab_check(cpus_run(add), "%s: all come to the end", places[i].name);
        lab_check(*word == cpu_count * ROUNDS * 2, "%s: sum %u, want %u", places[i].name, *word,
                  cpu_count * ROUNDS * 2);
        *word = 0;
        lab_check(cpus_run(bits), "%s: all come to the end", places[i].name);
        for (u32 k = 0; k < cpu_count; k++) {
            lab_check(wrong[k] == 0, "%s: processor %u lost a bit %u times", places[i].name, k,
                      wrong[k]);
            wrong[k] = 0;
        }
        wide = (volatile u64 *)(arena + places[i].offset - (i >= 2 ? 1 : 0));
        *wide = 0;
        lab_check(cpus_run(add_wide), "%s: all come to the end", places[i].name);
        u64 sum = (u64)(cpu_count * ROUNDS) << 32 | cpu_count * ROUNDS;
        lab_check(*wide == sum, "%s: sum %llx, want %llx", places[i].name, *wide, sum);
    }
    lab_check(cpus_run(exchange), "XCHG: all come to the end");
    lab_equal("XCHG", plain, cpu_count * (ROUNDS / 4));
}

// --- order -------------------------------------------------------------------------------------------------

#define SLOTS 256
#define BATCHES 12

struct slot {
    volatile u32 x, pad0[15], y, pad1[15];
    volatile u32 seen[8];
    u32 pad2[8];
};
static struct slot slots[SLOTS] __attribute__((aligned(64)));
static u32 litmus;

enum litmus {
    STORE_BUFFER,        // allowed
    STORE_BUFFER_FENCED, // with a locked instruction in between: forbidden
    MESSAGE,
    LOAD_BUFFER,
    INDEPENDENT, // two writers, two readers
    COHERENCE,   // two reads of one place
    TWO_WRITES
};

static void fence(void)
{
    __asm__ volatile("lock addl $0, (%%esp)" : : : "memory");
}

static void play(u32 index)
{
    barrier();
    for (u32 i = 0; i < SLOTS; i++) {
        struct slot *s = &slots[i];
        switch (litmus * 4 + index) {
        case STORE_BUFFER * 4:
            s->x = 1;
            s->seen[0] = s->y;
            break;
        case STORE_BUFFER * 4 + 1:
            s->y = 1;
            s->seen[1] = s->x;
            break;
        case STORE_BUFFER_FENCED * 4:
            s->x = 1;
            fence();
            s->seen[0] = s->y;
            break;
        case STORE_BUFFER_FENCED * 4 + 1:
            s->y = 1;
            fence();
            s->seen[1] = s->x;
            break;
        case MESSAGE * 4:
            s->x = 1;
            s->y = 1;
            break;
        case MESSAGE * 4 + 1:
            s->seen[0] = s->y;
            s->seen[1] = s->x;
            break;
        case LOAD_BUFFER * 4:
            s->seen[0] = s->x;
            s->y = 1;
            break;
        case LOAD_BUFFER * 4 + 1:
            s->seen[1] = s->y;
            s->x = 1;
            break;
        case INDEPENDENT * 4:
            s->x = 1;
            break;
        case INDEPENDENT * 4 + 1:
            s->y = 1;
            break;
        case INDEPENDENT * 4 + 2:
            s->seen[0] = s->x;
            s->seen[1] = s->y;
            break;
        case INDEPENDENT * 4 + 3:
            s->seen[2] = s->y;
            s->seen[3] = s->x;
            break;
        case COHERENCE * 4:
            s->x = 1;
            s->x = 2;
            break;
        case COHERENCE * 4 + 1:
        case COHERENCE * 4 + 2:
        case COHERENCE * 4 + 3:
            s->seen[index * 2 - 2] = s->x;
            s->seen[index * 2 - 1] = s->x;
            break;
        case TWO_WRITES * 4:
            s->x = 1;
            s->y = 2;
            break;
        case TWO_WRITES * 4 + 1:
            s->y = 1;
            s->x = 2;
            break;
        default:
            break;
        }
    }
    barrier();
}

static bool forbidden(const struct slot *s)
{
    switch (litmus) {
    case STORE_BUFFER_FENCED:
        return !s->seen[0] && !s->seen[1];
    case MESSAGE:
        return s->seen[0] && !s->seen[1];
    case LOAD_BUFFER:
        return s->seen[0] && s->seen[1];
    case INDEPENDENT:
        return cpu_count == 4 && s->seen[0] && !s->seen[1] && s->seen[2] && !s->seen[3];
    case COHERENCE:
        return s->seen[0] > s->seen[1] || s->seen[2] > s->seen[3] || s->seen[4] > s->seen[5];
    case TWO_WRITES:
        return s->x == 1 && s->y == 1;
    default:
        return false;
    }
}

void smp_litmus(void)
{
    static const char *const names[] = {
        "store buffering",   "store buffering with fences", "message passing", "load buffering",
        "two readers agree", "one place, one order",        "two writes each"};
    for (litmus = 0; litmus < sizeof(names) / sizeof(names[0]); litmus++) {
        u32 bad = 0;
        bool ended = true;
        for (u32 batch = 0; batch < BATCHES && ended; batch++) {
            for (u32 i = 0; i < SLOTS; i++) {
                slots[i].x = slots[i].y = 0;
                for (u32 k = 0; k < 8; k++)
                    slots[i].seen[k] = 0;
            }
            ended = cpus_run(play);
            for (u32 i = 0; i < SLOTS; i++)
                bad += forbidden(&slots[i]);
        }
        lab_check(ended && bad == 0, "%s: %u times what is forbidden", names[litmus], bad);
    }
}
