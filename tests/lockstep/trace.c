// SPDX-License-Identifier: Apache-2.0
#include "trace.h"
#include "x86/decode.h"
#include "x86/paging.h"
#include <string.h>

// The bytes there, as far as they are mapped. Sets accessed bits, which the fetch would set too.
static unsigned fetch(struct x86_cpu *cpu, struct memory *memory, gva_t lin, uint8_t *out)
{
    unsigned n = 0;
    for (; n < 15; n++, lin = (lin + 1) & cpu->lin_mask) {
        gpa_t gpa = lin;
        if (cpu->cr0 & X86_CR0_PG) {
            struct x86_walk walk;
            uint32_t error;
            if (cpu->long_mode && !x86_canonical(lin))
                break;
            if (!x86_page_walk(cpu, lin, cpu->cpl == 3 ? X86_TLB_USER : X86_TLB_SUPERVISOR,
                               X86_ACCESS_EXEC, &walk, &error))
                break;
            gpa = walk.gpa;
        }
        if (!memory_read(memory, gpa, &out[n], 1))
            break;
    }
    return n;
}

void trace_note(struct trace *trace, struct machine *machine)
{
    struct x86_cpu *cpu = machine->vcpus[0].cpu;
    struct trace_entry *e = &trace->entry[trace->noted++ % TRACE_LENGTH];

    machine->engine_ops->get_state(machine->vcpus[0].engine_vcpu);
    *e = (struct trace_entry){.number = counted_retired(machine) + 1,
                              .rip = cpu->rip,
                              .linear = (cpu->seg[X86_CS].eff_base + cpu->rip) & cpu->lin_mask,
                              .code_size = cpu->code_size,
                              .cpl = cpu->cpl,
                              .pending = x86_events_ready(cpu) || cpu->activity != X86_ACTIVE};
    e->count = (uint8_t)fetch(cpu, machine->memory, e->linear, e->bytes);
}

void trace_print(const struct trace *trace, FILE *out)
{
    uint64_t first = trace->noted > TRACE_LENGTH ? trace->noted - TRACE_LENGTH : 0;
    for (uint64_t i = first; i < trace->noted; i++) {
        const struct trace_entry *e = &trace->entry[i % TRACE_LENGTH];
        struct x86_insn insn;
        char text[160];
        unsigned length = e->count;
        if (x86_decode(&insn, e->bytes, e->count, e->code_size, NULL) == X86_DECODE_OK)
            length = insn.len;
        x86_disassemble(text, sizeof(text), e->bytes, e->count, e->code_size, e->rip);
        fprintf(out, "  %llu cpl %u %016llx ", (unsigned long long)e->number, e->cpl,
                (unsigned long long)e->rip);
        for (unsigned k = 0; k < length; k++)
            fprintf(out, "%02x", e->bytes[k]);
        fprintf(out, " %s%s\n", text, e->pending ? " (or an interrupt before it)" : "");
    }
}
