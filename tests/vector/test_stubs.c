// SPDX-License-Identifier: Apache-2.0
// A guest that executes every instruction with every immediate does not exhaust the stubs.

#include "bench.h"

#include <stdio.h>

int main(void)
{
    struct error err;
    unsigned most = 0, missing = 0, total = 0;
    if (hostexec_init(&err) < 0) {
        puts(err.message);
        return 1;
    }
    for (unsigned id = 0; id < X86_FORM_COUNT; id++) {
        const struct x86_form *f = &x86_forms[id];
        for (unsigned v = 0; v < 16; v++) {
            struct x86_insn insn = {.form = (uint16_t)id,
                                    .has_mem = v & 1,
                                    .vex_l = v >> 1 & 1,
                                    .vex_w = v >> 2 & 1,
                                    .opsize = v & 8 ? 8 : 4,
                                    .opcode = f->opcode,
                                    .map = f->map};
            if (f->modrm == 2 && !insn.has_mem)
                continue;
            if ((f->modrm == 3 || f->modrm == 4) && insn.has_mem)
                continue;
            uint32_t first = hostexec_stub_find(&insn);
            if (first == 0)
                continue;
            for (unsigned imm = 0; imm < (f->imm == 1 ? 256 : 1); imm++) {
                insn.imm = imm;
                uint32_t n = hostexec_stub_find(&insn);
                missing += n == 0;
                most = n > most ? n : most;
                total++;
            }
        }
    }
    printf("%u stubs for %u encodings, %zu KiB of code, %u missing\n", most, total,
           hostexec_code_used() / 1024, missing);
    return missing != 0 || most < 1000 || hostexec_code_used() > MIB(16);
}
