// SPDX-License-Identifier: Apache-2.0
// The MC146818's registers and time. Times are worked out from the VM clock on demand; see rtc.h.
#include "devices/chipset/rtc.h"

enum {
    REG_SEC = 0x00,
    REG_SEC_ALARM = 0x01,
    REG_MIN = 0x02,
    REG_MIN_ALARM = 0x03,
    REG_HOUR = 0x04,
    REG_HOUR_ALARM = 0x05,
    REG_DAY_OF_WEEK = 0x06, // 1 is Sunday
    REG_DAY = 0x07,
    REG_MONTH = 0x08,
    REG_YEAR = 0x09,
    REG_A = 0x0A,
    REG_B = 0x0B,
    REG_C = 0x0C,
    REG_D = 0x0D,
    REG_CENTURY = 0x32, // the FADT says so; encoded like the year
};

#define A_UIP 0x80
#define A_DIVIDER 0x70
#define A_DIVIDER_RUNS 0x20 // 32.768 kHz time base; any other value stops the clock
#define A_RATE 0x0F

#define B_SET 0x80
#define B_PIE 0x40
#define B_AIE 0x20
#define B_UIE 0x10
#define B_SQWE 0x08
#define B_BINARY 0x04
#define B_24H 0x02

#define C_IRQF 0x80
#define C_PF 0x40
#define C_AF 0x20
#define C_UF 0x10
#define C_FLAGS (C_PF | C_AF | C_UF)

#define D_VALID 0x80

#define HOUR_PM 0x80
#define ALARM_ANY 0xC0 // both bits set: matches every value

#define NS_PER_SEC 1000000000
// UIP rises 244 us before the update and stays up for its 1984 us; UF comes at the end.
#define UIP_NS (244000 + 1984000)
#define FIRST_UPDATE_NS (NS_PER_SEC / 2) // after the divider leaves reset
#define TICKS_SHIFT 15                   // 32768 Hz

#define SECONDS_PER_DAY 86400
#define DAYS_TO_1970 719528 // from 0000-01-01
#define CALENDAR_YEARS 10000
#define CALENDAR_DAYS 3652425 // in 10000 years
#define SEC_LIMIT ((int64_t)1 << 40)

static bool divider_runs(const struct rtc *rtc)
{
    return (rtc->cmos[REG_A] & A_DIVIDER) == A_DIVIDER_RUNS;
}

static bool frozen(const struct rtc *rtc)
{
    return (rtc->cmos[REG_B] & B_SET) || !divider_runs(rtc);
}

static struct rtc_time wall_time(const struct rtc *rtc)
{
    struct clock *clock = rtc->config.timers->clock;
    uint64_t ns = clock->epoch_ns + clock_now(clock);

    return (struct rtc_time){(int64_t)(ns / NS_PER_SEC), (int64_t)(ns % NS_PER_SEC)};
}

static struct rtc_time time_add(struct rtc_time a, struct rtc_time b)
{
    int64_t ns = a.ns + b.ns;

    return (struct rtc_time){a.sec + b.sec + ns / NS_PER_SEC, ns % NS_PER_SEC};
}

static struct rtc_time time_sub(struct rtc_time a, struct rtc_time b)
{
    int64_t ns = a.ns - b.ns;

    return ns < 0 ? (struct rtc_time){a.sec - b.sec - 1, ns + NS_PER_SEC}
                  : (struct rtc_time){a.sec - b.sec, ns};
}

static struct rtc_time rtc_now(const struct rtc *rtc)
{
    return divider_runs(rtc) ? time_add(wall_time(rtc), rtc->offset) : rtc->stopped;
}

// 32768 Hz ticks; rounds down, also before 1970.
static int64_t time_ticks(struct rtc_time t)
{
    return t.sec * (1 << TICKS_SHIFT) + ((t.ns << TICKS_SHIFT) / NS_PER_SEC);
}

static struct rtc_time ticks_time(int64_t ticks)
{
    int64_t part = ticks & ((1 << TICKS_SHIFT) - 1);

    return (struct rtc_time){ticks >> TICKS_SHIFT,
                             (part * NS_PER_SEC + (1 << TICKS_SHIFT) - 1) >> TICKS_SHIFT};
}

// --- Calendar ------------------------------------------------------------------------------------

struct calendar {
    unsigned year, month, day; // 0 to 9999, 1 to 12, 1 to 31
    unsigned hour, minute, second;
    unsigned day_of_week; // 0 is Sunday
};

static int64_t days_before_year(int64_t year)
{
    return 365 * year + (year + 3) / 4 - (year + 99) / 100 + (year + 399) / 400;
}

static unsigned days_in_month(unsigned year, unsigned month)
{
    static const uint8_t days[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

    return days[month - 1] + (month == 2 && leap);
}

static int64_t floor_mod(int64_t a, int64_t m)
{
    int64_t r = a % m;
    return r < 0 ? r + m : r;
}

static struct calendar calendar_from_seconds(int64_t sec)
{
    struct calendar c;
    int64_t of_day = floor_mod(sec, SECONDS_PER_DAY);
    int64_t days = (sec - of_day) / SECONDS_PER_DAY;

    c.day_of_week = (unsigned)floor_mod(days + 4, 7); // 1970 began on a Thursday
    c.hour = (unsigned)(of_day / 3600);
    c.minute = (unsigned)(of_day / 60 % 60);
    c.second = (unsigned)(of_day % 60);
    days = floor_mod(days + DAYS_TO_1970, CALENDAR_DAYS);
    int64_t year = days * 400 / 146097; // within one of the answer
    if (days_before_year(year) > days)
        year--;
    else if (days_before_year(year + 1) <= days)
        year++;
    c.year = (unsigned)year;
    unsigned rest = (unsigned)(days - days_before_year(year));
    for (c.month = 1; rest >= days_in_month(c.year, c.month); c.month++)
        rest -= days_in_month(c.year, c.month);
    c.day = rest + 1;
    return c;
}

// Takes values out of range, too, as a guest may have written them; the excess carries over.
static int64_t calendar_to_seconds(const struct calendar *c)
{
    unsigned month = c->month < 1 ? 1 : c->month > 12 ? 12 : c->month;
    int64_t days = days_before_year(c->year) - DAYS_TO_1970 + c->day - 1;

    for (unsigned m = 1; m < month; m++)
        days += days_in_month(c->year, m);
    return days * SECONDS_PER_DAY + c->hour * 3600 + c->minute * 60 + c->second;
}

// --- Registers -----------------------------------------------------------------------------------

static uint8_t encode(const struct rtc *rtc, unsigned value)
{
    return rtc->cmos[REG_B] & B_BINARY ? value : (value / 10) << 4 | value % 10;
}

static unsigned decode(const struct rtc *rtc, uint8_t value)
{
    return rtc->cmos[REG_B] & B_BINARY ? value : (value >> 4) * 10u + (value & 15);
}

static uint8_t encode_hour(const struct rtc *rtc, unsigned hour)
{
    if (rtc->cmos[REG_B] & B_24H)
        return encode(rtc, hour);
    return encode(rtc, (hour + 11) % 12 + 1) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct rtc *rtc, uint8_t value)
{
    if (rtc->cmos[REG_B] & B_24H)
        return decode(rtc, value);
    return decode(rtc, value & ~HOUR_PM) % 12 + (value & HOUR_PM ? 12 : 0);
}

static bool is_time_register(uint8_t index)
{
    return index <= REG_YEAR
               ? index != REG_SEC_ALARM && index != REG_MIN_ALARM && index != REG_HOUR_ALARM
               : index == REG_CENTURY;
}

// Brings the time registers in `cmos` up to date while they are not frozen.
static void refresh_registers(struct rtc *rtc)
{
    if (frozen(rtc))
        return;
    struct calendar c = calendar_from_seconds(rtc_now(rtc).sec);

    rtc->cmos[REG_SEC] = encode(rtc, c.second);
    rtc->cmos[REG_MIN] = encode(rtc, c.minute);
    rtc->cmos[REG_HOUR] = encode_hour(rtc, c.hour);
    rtc->cmos[REG_DAY_OF_WEEK] = (uint8_t)((c.day_of_week + rtc->dow_offset) % 7 + 1);
    rtc->cmos[REG_DAY] = encode(rtc, c.day);
    rtc->cmos[REG_MONTH] = encode(rtc, c.month);
    rtc->cmos[REG_YEAR] = encode(rtc, c.year % 100);
    rtc->cmos[REG_CENTURY] = encode(rtc, c.year / 100);
}

// The seconds that the time registers spell. Also takes the day of the week from them.
static int64_t seconds_from_registers(struct rtc *rtc)
{
    struct calendar c = {
        .year = (decode(rtc, rtc->cmos[REG_CENTURY]) * 100 + decode(rtc, rtc->cmos[REG_YEAR])) %
                CALENDAR_YEARS,
        .month = decode(rtc, rtc->cmos[REG_MONTH]),
        .day = decode(rtc, rtc->cmos[REG_DAY]),
        .hour = decode_hour(rtc, rtc->cmos[REG_HOUR]),
        .minute = decode(rtc, rtc->cmos[REG_MIN]),
        .second = decode(rtc, rtc->cmos[REG_SEC]),
    };
    int64_t sec = calendar_to_seconds(&c);
    unsigned real = calendar_from_seconds(sec).day_of_week;

    rtc->dow_offset = (uint8_t)((rtc->cmos[REG_DAY_OF_WEEK] + 6 + 7 - real) % 7);
    return sec;
}

// Makes it that second now, keeping the position within the second.
static void set_seconds(struct rtc *rtc, int64_t sec)
{
    struct rtc_time now = rtc_now(rtc);

    now.sec = sec;
    rtc->offset = time_sub(now, wall_time(rtc));
    rtc->checked = now;
}

// --- Events --------------------------------------------------------------------------------------

// An alarm byte as a number; -1 matches everything, -2 nothing.
static int alarm_value(const struct rtc *rtc, uint8_t reg, unsigned limit)
{
    uint8_t raw = rtc->cmos[reg];

    if ((raw & ALARM_ANY) == ALARM_ANY)
        return -1;
    unsigned value = reg == REG_HOUR_ALARM ? decode_hour(rtc, raw) : decode(rtc, raw);
    uint8_t again = reg == REG_HOUR_ALARM ? encode_hour(rtc, value) : encode(rtc, value);
    return value < limit && again == raw ? (int)value : -2;
}

// The first second after `sec` at which the alarm matches; INT64_MAX when there is none.
static int64_t alarm_after(const struct rtc *rtc, int64_t sec)
{
    int hour = alarm_value(rtc, REG_HOUR_ALARM, 24);
    int minute = alarm_value(rtc, REG_MIN_ALARM, 60);
    int second = alarm_value(rtc, REG_SEC_ALARM, 60);
    int64_t start = floor_mod(sec + 1, SECONDS_PER_DAY);

    if (hour == -2 || minute == -2 || second == -2)
        return INT64_MAX;
    // From `start` to the same hour of the next day, skipping whole hours and minutes that do not
    // match.
    for (int64_t t = start; t < start + SECONDS_PER_DAY + 3600;) {
        int h = (int)(t / 3600 % 24), m = (int)(t / 60 % 60), s = (int)(t % 60);
        if (hour >= 0 && h != hour)
            t += 3600 - t % 3600;
        else if (minute >= 0 && m != minute)
            t += 60 - t % 60;
        else if (second >= 0 && s != second)
            t += s < second ? second - s : 60 - s;
        else
            return sec + 1 + (t - start);
    }
    return INT64_MAX;
}

// log2 of the periodic interrupt's period in ticks, or -1 for none (table 5 of the data sheet).
static int period_shift(const struct rtc *rtc)
{
    unsigned rate = rtc->cmos[REG_A] & A_RATE;

    if (rate == 0 || !divider_runs(rtc))
        return -1;
    return (int)(rate <= 2 ? rate + 6 : rate - 1);
}

// Sets the flags that time has raised since the last look.
static void catch_up(struct rtc *rtc)
{
    struct rtc_time now = rtc_now(rtc), last = rtc->checked;
    int shift = period_shift(rtc);

    rtc->checked = now;
    if (now.sec < last.sec || (now.sec == last.sec && now.ns <= last.ns))
        return; // no time passed, or the host's epoch was moved back
    if (shift >= 0 && time_ticks(now) >> shift > time_ticks(last) >> shift)
        rtc->cmos[REG_C] |= C_PF;
    if (frozen(rtc) || now.sec == last.sec)
        return;
    rtc->cmos[REG_C] |= C_UF;
    if (alarm_after(rtc, last.sec) <= now.sec)
        rtc->cmos[REG_C] |= C_AF;
}

static bool irq_active(const struct rtc *rtc)
{
    return rtc->cmos[REG_B] & rtc->cmos[REG_C] & C_FLAGS;
}

static bool earlier(struct rtc_time a, struct rtc_time b)
{
    return a.sec < b.sec || (a.sec == b.sec && a.ns < b.ns);
}

// Drives the line and arms the timer for the next event that could raise it.
static void update(struct rtc *rtc)
{
    const struct rtc_time never = {INT64_MAX, 0};
    uint8_t wanted = rtc->cmos[REG_B] & ~rtc->cmos[REG_C] & C_FLAGS;
    // Events after those that catch_up() has seen: one may just have passed.
    struct rtc_time now = rtc->checked, next = never;
    int shift = period_shift(rtc);

    irq_set(&rtc->config.irq, irq_active(rtc));
    if ((wanted & C_PF) && shift >= 0)
        next = ticks_time(((time_ticks(now) >> shift) + 1) << shift);
    if (!frozen(rtc)) {
        struct rtc_time event = {now.sec + 1, 0};
        if ((wanted & C_UF) && earlier(event, next))
            next = event;
        event.sec = alarm_after(rtc, now.sec);
        if ((wanted & C_AF) && earlier(event, next))
            next = event;
    }
    if (irq_active(rtc) || next.sec == INT64_MAX) {
        timer_cancel(&rtc->timer);
        return;
    }
    uint64_t deadline = clock_now(rtc->config.timers->clock);
    struct rtc_time delta = time_sub(next, rtc_now(rtc));
    if (delta.sec >= 0)
        deadline += (uint64_t)(delta.sec * NS_PER_SEC + delta.ns);
    timer_arm(&rtc->timer, deadline);
}

static void timer_fired(void *opaque)
{
    struct rtc *rtc = opaque;

    catch_up(rtc);
    update(rtc);
}

// --- Guest access --------------------------------------------------------------------------------

static void write_a(struct rtc *rtc, uint8_t value)
{
    bool ran = divider_runs(rtc);
    bool set = rtc->cmos[REG_B] & B_SET;
    struct rtc_time now = rtc_now(rtc);

    refresh_registers(rtc); // the time at which it stops, if it does
    rtc->cmos[REG_A] = value & ~A_UIP;
    if (ran && !divider_runs(rtc)) {
        rtc->stopped = now;
    } else if (!ran && divider_runs(rtc)) {
        struct rtc_time begin = {set ? rtc->stopped.sec : seconds_from_registers(rtc),
                                 NS_PER_SEC - FIRST_UPDATE_NS};
        rtc->offset = time_sub(begin, wall_time(rtc));
        rtc->checked = begin;
    }
}

static void write_b(struct rtc *rtc, uint8_t value)
{
    bool was_set = rtc->cmos[REG_B] & B_SET;

    refresh_registers(rtc);
    if (value & B_SET)
        value &= ~B_UIE;
    rtc->cmos[REG_B] = value;
    if (was_set && !frozen(rtc))
        set_seconds(rtc, seconds_from_registers(rtc));
}

static void write_register(struct rtc *rtc, uint8_t index, uint8_t value)
{
    catch_up(rtc);
    switch (index) {
    case REG_A:
        write_a(rtc, value);
        break;
    case REG_B:
        write_b(rtc, value);
        break;
    case REG_C:
    case REG_D:
        return;
    default:
        if (is_time_register(index)) {
            refresh_registers(rtc);
            rtc->cmos[index] = value;
            if (!frozen(rtc))
                set_seconds(rtc, seconds_from_registers(rtc));
        } else {
            rtc->cmos[index] = value;
        }
        break;
    }
    if (index <= REG_B || index == REG_CENTURY)
        update(rtc);
}

static uint8_t read_register(struct rtc *rtc, uint8_t index)
{
    uint8_t value;

    switch (index) {
    case REG_A:
        value = rtc->cmos[REG_A];
        if (!frozen(rtc) && rtc_now(rtc).ns >= NS_PER_SEC - UIP_NS)
            value |= A_UIP;
        return value;
    case REG_C:
        catch_up(rtc);
        value = rtc->cmos[REG_C] | (irq_active(rtc) ? C_IRQF : 0);
        rtc->cmos[REG_C] = 0;
        update(rtc);
        return value;
    case REG_D:
        return D_VALID;
    default:
        if (is_time_register(index))
            refresh_registers(rtc);
        return rtc->cmos[index];
    }
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned size)
{
    struct rtc *rtc = opaque;

    return offset == 1 ? read_register(rtc, rtc->index) : 0xFF; // the index port is write-only
}

static void rtc_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct rtc *rtc = opaque;

    if (offset == 1) {
        write_register(rtc, rtc->index, (uint8_t)value);
    } else if (offset == 0) {
        uint8_t masked = (value & 0x80) != 0;
        rtc->index = value & 0x7F;
        if (masked != rtc->nmi_masked) {
            rtc->nmi_masked = masked;
            if (rtc->config.nmi_mask)
                rtc->config.nmi_mask(rtc->config.opaque, masked);
        }
    }
}

static const struct io_ops rtc_ops = {
    .read = rtc_read, .write = rtc_write, .min_size = 1, .max_size = 1};

void rtc_region(struct rtc *rtc, struct io_region *region)
{
    *region =
        (struct io_region){.name = "rtc", .base = 0x70, .size = 2, .ops = &rtc_ops, .opaque = rtc};
}

// --- Board access --------------------------------------------------------------------------------

void rtc_init(struct rtc *rtc, const struct rtc_config *config)
{
    *rtc = (struct rtc){.config = *config};
    timer_init(&rtc->timer, config->timers, timer_fired, rtc);
    rtc->cmos[REG_A] = A_DIVIDER_RUNS | 6; // 1024 Hz, as every PC's firmware sets it
    rtc->cmos[REG_B] = B_24H;
    rtc->cmos[REG_DAY_OF_WEEK] = 1;
    rtc->checked = rtc_now(rtc);
    rtc_reset(rtc);
}

void rtc_fini(struct rtc *rtc)
{
    timer_fini(&rtc->timer);
}

void rtc_reset(struct rtc *rtc)
{
    catch_up(rtc);
    rtc->cmos[REG_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    rtc->cmos[REG_C] = 0;
    rtc->index = 0;
    rtc->nmi_masked = 0;
    update(rtc);
}

void rtc_set_cmos(struct rtc *rtc, uint8_t index, uint8_t value)
{
    if (index > REG_D && index < RTC_CMOS_SIZE && index != REG_CENTURY)
        rtc->cmos[index] = value;
}

uint8_t rtc_cmos(const struct rtc *rtc, uint8_t index)
{
    return index > REG_D && index < RTC_CMOS_SIZE && index != REG_CENTURY ? rtc->cmos[index] : 0;
}

bool rtc_nmi_masked(const struct rtc *rtc)
{
    return rtc->nmi_masked;
}

static void set_cmos_word(struct rtc *rtc, uint8_t index, uint64_t value)
{
    uint16_t word = value > 0xFFFF ? 0xFFFF : (uint16_t)value;

    rtc->cmos[index] = (uint8_t)word;
    rtc->cmos[index + 1] = word >> 8;
}

void rtc_set_memory_size(struct rtc *rtc, uint64_t below_4g, uint64_t above_4g)
{
    uint64_t over_1m = below_4g > MIB(1) ? below_4g - MIB(1) : 0;
    uint64_t over_16m = below_4g > MIB(16) ? below_4g - MIB(16) : 0;
    uint64_t blocks = above_4g >> 16;

    set_cmos_word(rtc, 0x15, 640);
    set_cmos_word(rtc, 0x17, over_1m >> 10);
    set_cmos_word(rtc, 0x30, over_1m >> 10);
    set_cmos_word(rtc, 0x34, over_16m >> 16);
    if (blocks > 0xFFFFFF)
        blocks = 0xFFFFFF;
    rtc->cmos[0x5B] = (uint8_t)blocks;
    rtc->cmos[0x5C] = (uint8_t)(blocks >> 8);
    rtc->cmos[0x5D] = (uint8_t)(blocks >> 16);
    rtc_update_checksum(rtc);
}

void rtc_update_checksum(struct rtc *rtc)
{
    unsigned sum = 0;

    for (unsigned i = 0x10; i <= 0x2D; i++)
        sum += rtc->cmos[i];
    rtc->cmos[0x2E] = (uint8_t)(sum >> 8);
    rtc->cmos[0x2F] = (uint8_t)sum;
}

// --- Saved state ---------------------------------------------------------------------------------

static bool valid_time(struct rtc_time t)
{
    return t.ns >= 0 && t.ns < NS_PER_SEC && t.sec > -SEC_LIMIT && t.sec < SEC_LIMIT;
}

static void rtc_pre_save(void *object)
{
    catch_up(object);
    refresh_registers(object);
}

static int rtc_post_load(void *object, struct error *err)
{
    struct rtc *rtc = object;

    if (rtc->index >= RTC_CMOS_SIZE || rtc->nmi_masked > 1 || rtc->dow_offset > 6 ||
        (rtc->cmos[REG_A] & A_UIP) || (rtc->cmos[REG_C] & ~C_FLAGS))
        return error_set(err, ERROR_INPUT, "rtc: a register has reserved bits set");
    if (!valid_time(rtc->offset) || !valid_time(rtc->stopped) || !valid_time(rtc->checked))
        return error_set(err, ERROR_INPUT, "rtc: a time is out of range");
    catch_up(rtc);
    update(rtc);
    return 0;
}

static const struct state_field time_fields[] = {STATE_FIELD(struct rtc_time, sec),
                                                 STATE_FIELD(struct rtc_time, ns), STATE_END};

static const struct state_field rtc_fields[] = {
    STATE_ARRAY(struct rtc, cmos, uint8_t),
    STATE_FIELD(struct rtc, index),
    STATE_FIELD(struct rtc, nmi_masked),
    STATE_FIELD(struct rtc, dow_offset),
    STATE_STRUCT(struct rtc, offset, struct rtc_time, time_fields),
    STATE_STRUCT(struct rtc, stopped, struct rtc_time, time_fields),
    STATE_STRUCT(struct rtc, checked, struct rtc_time, time_fields),
    STATE_TRANSIENT(struct rtc, timer),
    STATE_TRANSIENT(struct rtc, config),
    STATE_END};

const struct state_desc rtc_state = {.name = "rtc",
                                     .version = 1,
                                     .size = sizeof(struct rtc),
                                     .fields = rtc_fields,
                                     .post_load = rtc_post_load,
                                     .pre_save = rtc_pre_save};
