#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns src/x86/instructions.def into C: gen_instructions.py DEF FORMS_H FORMS_C

forms.h: enum x86_form_id, enum x86_mnemonic, X86_FORM_LIST(X).
forms.c: x86_forms[] and the decoder's candidate lists (x86/decode_table.h).
The syntax of the table is described at its top, the meaning of the columns in src/x86/insn.h.
"""
import re
import sys

KINDS = {
    'E': 'RM', 'M': 'RM_MEM', 'R': 'RM_REG', 'G': 'REG', 'Z': 'OPREG', 'B': 'VVVV_GPR',
    'I': 'IMM', 'J': 'REL', 'O': 'MOFFS', 'A': 'FAR', 'X': 'STR_SRC', 'Y': 'STR_DST',
    'S': 'SREG', 'C': 'CREG', 'D': 'DREG',
    'V': 'VEC_REG', 'W': 'VEC_RM', 'U': 'VEC_RM_REG', 'H': 'VEC_VVVV', 'L': 'VEC_IS4',
    'P': 'MMX_REG', 'Q': 'MMX_RM', 'N': 'MMX_RM_REG', 'K': 'VSIB',
}
SIZES = {'': (0, 0), 'b': (1, 0), 'bs': (1, 0), 'w': (2, 0), 'd': (4, 0), 'q': (8, 0),
         't': (10, 0), 'dq': (16, 0), 'qq': (32, 0), 'ss': (4, 0), 'sd': (8, 0),
         'x': (0, 'x'), 'ps': (0, 'x'), 'pd': (0, 'x'), 'h': (0, 'h'), 'f': (0, 'f'), 'e': (0, 'e'),
         'v': (0, 'v'), 'y': (0, 'y'), 'z': (0, 'z'), 'p': (0, 'p'), 's': (0, 's'), 'a': (0, 'a')}
FIXED = {'AL': ('FIXED_GPR', 1, 0, 0), 'AX': ('FIXED_GPR', 2, 0, 0), 'CL': ('FIXED_GPR', 1, 0, 1),
         'DX': ('FIXED_GPR', 2, 0, 2), 'rAX': ('FIXED_GPR', 0, 'v', 0),
         'eAX': ('FIXED_GPR', 0, 'z', 0), '1': ('ONE', 1, 0, 0), 'ST0': ('ST0', 10, 0, 0),
         'STi': ('STI', 10, 0, 0), 'XMM0': ('XMM0', 16, 0, 0)}
FIXED.update({s: ('FIXED_SREG', 2, 0, i)
              for i, s in enumerate(('ES', 'CS', 'SS', 'DS', 'FS', 'GS'))})
ATTRS = {'lock': 'LOCKABLE', 'rep': 'REP', 'repz': 'REPZ', 'only64': 'ONLY64', 'no64': 'NO64',
         'd64': 'D64', 'f64': 'F64', 'sensitive': 'SENSITIVE', 'branch': 'BRANCH',
         'end': 'END_BLOCK', 'prot': 'PROT', 'align': 'ALIGN', 'fpexc': 'FPEXC', 'stack': 'STACK',
         'xacq': 'XACQ', 'nowait': 'NOWAIT', 'x87': 'X87', 'mmx': 'MMX', 'sse': 'SSE',
         'amdw0': 'AMD_W0', 'feat64': 'FEAT64', 'avx2l': 'AVX2_L', 'avxtoo': 'AVX_TOO',
         'intel': 'INTEL'}
PRIVILEGE = {'cpl0': 'CPL0', 'iopl': 'IOPL', 'priv': 'OTHER'}
TREATMENT = {'helper': 'HELPER', 'copy': 'COPY', 'mem': 'MEM', 'control': 'CONTROL'}
FLAG_BITS = {'O': 11, 'S': 7, 'Z': 6, 'A': 4, 'P': 2, 'C': 0, 'D': 10, 'I': 9, 'T': 8, 'N': 14,
             'K': 18}
OTHER_FLAGS = 0x3000 | 0x10000 | 0x20000 | 0x40000 | 0x80000 | 0x100000 | 0x200000
GPRS = {n: i for i, n in enumerate('ax cx dx bx sp bp si di r8 r9 r10 r11'.split())}
MAPS = {'1': 0, '0F': 1, '0F38': 2, '0F3A': 3}
PREFIX = {'NP': '1', 'NFx': '2', '66': '0x66', 'F2': '0xf2', 'F3': '0xf3'}
MEMORY = {'RM', 'RM_MEM', 'MOFFS', 'VEC_RM', 'MMX_RM', 'VSIB', 'STR_SRC', 'STR_DST'}
GPR_KINDS = {'RM', 'RM_REG', 'REG', 'OPREG', 'VVVV_GPR', 'RM_MEM', 'FIXED_GPR', 'STR_SRC',
             'STR_DST', 'MOFFS', 'IMM'}


class Row:
    pass


def fail(number, text):
    sys.exit(f'instructions.def:{number}: {text}')


def flag_mask(letters, number):
    mask = 0
    for c in letters:
        if c == 'V':
            mask |= OTHER_FLAGS
        elif c in FLAG_BITS:
            mask |= 1 << FLAG_BITS[c]
        else:
            fail(number, f'unknown flag {c}')
    return mask


def gpr_mask(names, number):
    mask = 0
    for n in names.split(','):
        if n not in GPRS:
            fail(number, f'unknown register {n}')
        mask |= 1 << GPRS[n]
    return mask


def parse_operand(text, number):
    op = Row()
    op.rw = 'X86_RW_READ'
    if text[0] == '=':
        op.rw, text = 'X86_RW_WRITE', text[1:]
    elif text[0] == '+':
        op.rw, text = 'X86_RW_READ | X86_RW_WRITE', text[1:]
    op.text = text
    op.fixed = 0
    if text in FIXED:
        op.kind, op.size, op.vary, op.fixed = FIXED[text]
    elif text[0] in KINDS and text[1:] in SIZES:
        op.kind = KINDS[text[0]]
        op.size, op.vary = SIZES[text[1:]]
    else:
        fail(number, f'unknown operand {text}')
    op.signed = text == 'Ibs'
    return op


def parse_encoding(row, text, number):
    row.prefix, row.map, row.w, row.l, row.vex = '0', 0, -1, -1, False
    row.mask, row.modrm, row.reg, row.rm, row.rexb = 0xff, None, -1, -1, -1
    row.opcode = None
    for t in text.split():
        if t.startswith('VEX.'):
            row.vex = True
            row.prefix = '1'
            for part in t.split('.')[1:]:
                if part in ('128', 'L0', 'LZ'):
                    row.l = 0
                elif part in ('256', 'L1'):
                    row.l = 1
                elif part in ('LIG', 'WIG'):
                    pass
                elif part in ('W0', 'W1'):
                    row.w = int(part[1])
                elif part in PREFIX:
                    row.prefix = PREFIX[part]
                elif part in MAPS:
                    row.map = MAPS[part]
                else:
                    fail(number, f'unknown VEX field {part}')
        elif row.opcode is None and t in PREFIX and not row.vex and row.map == 0:
            row.prefix = PREFIX[t]
        elif t in ('W0', 'REX.W'):
            row.w = 1 if t == 'REX.W' else 0
        elif t == 'REX.B0':
            row.rexb = 0
        elif t == '0F' and row.map == 0 and row.opcode is None and not row.vex:
            row.map = 1
        elif t in ('38', '3A') and row.map == 1 and row.opcode is None and not row.vex:
            row.map = 2 if t == '38' else 3
        elif row.opcode is None and re.fullmatch(r'[0-9A-F]{2}(\+r)?', t):
            row.opcode = int(t[:2], 16)
            if t.endswith('+r'):
                row.mask = 0xf8
        elif t == '/r':
            row.modrm = row.modrm or 1
        elif re.fullmatch(r'/[0-7]', t):
            row.reg = int(t[1])
            row.modrm = row.modrm or 1
        elif re.fullmatch(r'rm=[0-7]', t):
            row.rm = int(t[3])
            row.modrm = 3
        elif t.startswith('mod='):
            row.modrm = {'m': 2, '3': 3, 'any': 4}[t[4:]]
        else:
            fail(number, f'unknown encoding {t}')
    if row.opcode is None:
        fail(number, 'no opcode')


def parse_row(line, number, section, flag_names):
    cols = [c.strip() for c in line.split('|')]
    cols += [''] * (4 - len(cols))
    if len(cols) != 4:
        fail(number, 'too many columns')
    row = Row()
    row.number = number
    head = cols[0].split(None, 1)
    row.mnemonic = head[0]
    row.ops = [parse_operand(t.strip(), number)
               for t in head[1].split(',')] if len(head) > 1 else []
    parse_encoding(row, cols[1], number)

    row.attrs, row.feature, suffix, treatment = set(), 'NONE', '', None
    row.privilege, row.gpr_read, row.gpr_write, row.features = 'NONE', 0, 0, []
    unaligned = False
    for word in section + cols[2].split():
        if word in ATTRS:
            row.attrs.add(ATTRS[word])
            if word in ('sse', 'mmx'):
                row.feature = word
        elif word in PRIVILEGE:
            row.privilege = PRIVILEGE[word]
        elif word in TREATMENT:
            treatment = TREATMENT[word]
        elif word == 'unaligned':
            unaligned = True
        elif word.startswith('as='):
            suffix = '_' + word[3:]
        elif word.startswith('reads='):
            row.gpr_read |= gpr_mask(word[6:], number)
        elif word.startswith('writes='):
            row.gpr_write |= gpr_mask(word[7:], number)
        else:
            row.feature = word.removeprefix('cpuid=')
    if row.vex:
        row.attrs.add('VEX')

    row.flags = dict.fromkeys('rwusc', 0)
    for word in cols[3].split():
        for item in flag_names.get(word, word).split():
            if not re.fullmatch(r'[rwusc]=[A-Z]+', item):
                fail(number, f'unknown flags {item}')
            row.flags[item[0]] |= flag_mask(item[2:], number)
    row.flags['w'] |= row.flags['s'] | row.flags['c']

    kinds = {o.kind for o in row.ops}
    if kinds & {'RM_MEM', 'VSIB'}:
        row.modrm = 2
    if kinds & {'RM_REG', 'VEC_RM_REG', 'MMX_RM_REG'} and row.modrm != 4:
        row.modrm = 3
    row.modrm = row.modrm or 0
    if 'STI' in kinds:
        row.modrm = 3
    # Legacy SSE: a 16-byte memory operand must be aligned unless the row says otherwise.
    if 'SSE' in row.attrs and not unaligned:
        for o in row.ops:
            if o.kind in ('VEC_RM', 'RM_MEM') and (o.vary == 'x' or o.size == 16):
                row.attrs.add('ALIGN')

    # Immediate bytes: the first immediate and, for ENTER and the like, the second.
    imms = []
    for o in row.ops:
        if o.kind in ('IMM', 'REL'):
            imms.append(f"'{o.vary}'" if o.vary else str(o.size))
        elif o.kind == 'FAR':
            imms.append("'p'")
        elif o.kind == 'MOFFS':
            imms.append("'o'")
        elif o.kind == 'VEC_IS4' and not imms:
            imms.append('1')
    row.imms = (imms + ['0', '0'])[:2]
    row.imm_signed = any(o.signed or (o.kind == 'IMM' and o.vary == 'z') or o.kind == 'REL'
                         for o in row.ops)

    # The operand size that the prefixes select is narrowed by what the form can have.
    varies = {o.vary for o in row.ops if o.vary in ('v', 'y', 'z', 'p')}
    byte = any(o.size == 1 and not o.vary and o.kind in GPR_KINDS - {'IMM', 'RM_MEM'}
               and o.text not in ('CL',) for o in row.ops)
    if not varies and byte:
        row.opsize = 'BYTE'
    elif varies == {'y'}:
        row.opsize = 'Y'
    elif varies == {'z'} and not row.attrs & {'D64', 'F64'}:
        row.opsize = 'Z'
    else:
        row.opsize = 'V'
    # VEX.W selects a general register's size: ignored outside 64-bit mode.
    row.w_is_size = int(row.vex and row.w >= 0 and
                        bool(kinds & {'RM', 'RM_REG', 'REG', 'VVVV_GPR'}))

    if treatment is None:
        if row.privilege != 'NONE':
            treatment = 'HELPER'
        elif 'BRANCH' in row.attrs:
            treatment = 'CONTROL'
        elif kinds & MEMORY or 'STACK' in row.attrs:
            treatment = 'MEM'
        else:
            treatment = 'COPY'
    row.treatment = treatment
    row.name = '_'.join([row.mnemonic] + [o.text for o in row.ops]) + suffix
    return row


def parse(path):
    rows, section, flag_names, names = [], [], {}, {}
    with open(path, encoding='utf-8') as f:
        for number, line in enumerate(f, 1):
            line = line.split('#', 1)[0].strip()
            if not line:
                continue
            if line.startswith('@flags'):
                name, value = line[len('@flags'):].split('=', 1)
                flag_names[name.strip()] = value.strip()
                continue
            if line.startswith('@section'):
                section = line.split()[1:]
                continue
            row = parse_row(line, number, section, flag_names)
            if row.name in names:
                fail(number, f'{row.name} is also in line {names[row.name]}: add as=SUFFIX')
            names[row.name] = number
            rows.append(row)
    return rows


def macro_name(mnemonic):
    return mnemonic.upper()


def write_header(rows, path):
    mnemonics = sorted({r.mnemonic for r in rows})
    with open(path, 'w', encoding='utf-8') as f:
        f.write('// SPDX-License-Identifier: Apache-2.0\n'
                '// Generated from instructions.def by gen_instructions.py. Do not edit.\n'
                '#pragma once\n\n#define X86_FORM_LIST(X) \\\n')
        f.write(' \\\n'.join(f'    X({r.name}, {r.mnemonic})' for r in rows))
        f.write('\n\nenum x86_form_id {\n')
        f.writelines(f'    X86_FORM_{r.name},\n' for r in rows)
        f.write('    X86_FORM_COUNT\n};\n\nenum x86_mnemonic {\n    X86_MN_NONE,\n')
        f.writelines(f'    X86_MN_{macro_name(m)},\n' for m in mnemonics)
        f.write('    X86_MN_COUNT\n};\n')


def write_forms(rows, path):
    with open(path, 'w', encoding='utf-8') as f:
        f.write('// SPDX-License-Identifier: Apache-2.0\n'
                '// Generated from instructions.def by gen_instructions.py. Do not edit.\n'
                '#include "x86/decode_table.h"\n\nconst struct x86_form x86_forms[] = {\n')
        for r in rows:
            ops = ', '.join('{X86_OPND_%s, %d, %s, %s, %d}' % (
                o.kind, o.size, f"'{o.vary}'" if o.vary else '0', o.rw, o.fixed) for o in r.ops)
            attr = ' | '.join(f'X86_INSN_{a}' for a in sorted(r.attrs)) or '0'
            fl = r.flags
            f.write(f'    [X86_FORM_{r.name}] = {{.name = "{r.name}", .mnemonic = "{r.mnemonic}", '
                    f'.mnemonic_id = X86_MN_{macro_name(r.mnemonic)},\n'
                    f'     .operand_count = {len(r.ops)}, .operand = {{{ops or "{0}"}}},\n'
                    f'     .attr = {attr},\n'
                    f'     .feature = X86_FEATURE_{r.feature}, '
                    f'.privilege = X86_PRIV_{r.privilege}, .treatment = X86_TREAT_{r.treatment},\n'
                    f'     .flags_read = {fl["r"]:#x}, .flags_written = {fl["w"]:#x}, '
                    f'.flags_undefined = {fl["u"]:#x}, .flags_set = {fl["s"]:#x}, '
                    f'.flags_cleared = {fl["c"]:#x},\n'
                    f'     .gpr_read = {r.gpr_read:#x}, .gpr_write = {r.gpr_write:#x},\n'
                    f'     .map = {r.map}, .opcode = {r.opcode:#x}, .opcode_mask = {r.mask:#x}, '
                    f'.prefix = {r.prefix}, .modrm_reg = {r.reg}, .modrm_rm = {r.rm}, '
                    f'.modrm = {r.modrm}, .w = {r.w}, .l = {r.l}, .rex_b = {r.rexb},\n'
                    f'     .imm = {r.imms[0]}, .imm2 = {r.imms[1]}, '
                    f'.imm_signed = {int(r.imm_signed)}, .opsize_rule = X86_OPSIZE_{r.opsize}, '
                    f'.w_is_size = {r.w_is_size}}},\n')
        f.write('};\n\n')
        write_lists(rows, f)


def write_lists(rows, f):
    """Per encoding, map and opcode: the forms to try, those with a mandatory prefix first."""
    order, starts = [], {}
    for vex in (0, 1):
        for m in range(4):
            for opcode in range(256):
                hits = [r for r in rows if r.vex == bool(vex) and r.map == m
                        and (opcode & r.mask) == r.opcode]
                hits.sort(key=lambda r: r.prefix == '0')
                if not hits:
                    continue
                if len({bool(r.modrm) for r in hits}) > 1:
                    fail(hits[0].number, f'opcode {opcode:02X}: some rows have a ModRM, some not')
                starts[vex, m, opcode] = (len(order), len(hits), int(bool(hits[0].modrm)))
                order += [r.name for r in hits]
    f.write('const uint16_t x86_decode_forms[] = {\n')
    f.writelines(f'    X86_FORM_{n},\n' for n in order)
    f.write('};\n\nconst struct x86_decode_list x86_decode_lists[2][X86_MAP_COUNT][256] = {\n')
    for vex in (0, 1):
        f.write('    {\n')
        for m in range(4):
            f.write('        {\n')
            for opcode in range(256):
                if (vex, m, opcode) in starts:
                    start, count, modrm = starts[vex, m, opcode]
                    f.write(f'            [{opcode:#04x}] = {{{start}, {count}, {modrm}}},\n')
            if not any(k[0] == vex and k[1] == m for k in starts):
                f.write('            [0] = {0, 0, 0},\n')
            f.write('        },\n')
        f.write('    },\n')
    f.write('};\n')


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    rows = parse(sys.argv[1])
    write_header(rows, sys.argv[2])
    write_forms(rows, sys.argv[3])


if __name__ == '__main__':
    main()
