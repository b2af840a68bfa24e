// SPDX-License-Identifier: Apache-2.0
// A writer of ACPI Machine Language (ACPI specification 6.4, chapter 20; resource
// descriptors: 6.4).
//
// Terms are appended in order. A term that has a length (scope, device, method, package, buffer,
// if) is opened by a function that returns its start and closed by aml_end() with that start:
//
//   size_t device = aml_device(aml, "COM1");
//   aml_name(aml, "_HID");
//   aml_eisa_id(aml, "PNP0501");
//   aml_end(aml, device);
//
// Names are paths as in ASL ("\\_SB.PCI0", "^FOO"); segments are padded with '_'.
#pragma once

#include "machine/tables/bytes.h"

size_t aml_scope(struct bytes *aml, const char *path);
size_t aml_device(struct bytes *aml, const char *path);
size_t aml_method(struct bytes *aml, const char *path, unsigned args); // not serialized
size_t aml_package(struct bytes *aml, uint8_t count);
// A buffer holding a resource template; aml_end_resources() adds the end tag and the size.
size_t aml_resources(struct bytes *aml);
size_t aml_if(struct bytes *aml); // the predicate follows
void aml_end(struct bytes *aml, size_t start);
void aml_end_resources(struct bytes *aml, size_t start);

void aml_name(struct bytes *aml, const char *path); // Name (path, <the next object>)
void aml_path(struct bytes *aml, const char *path); // a reference
void aml_integer(struct bytes *aml, uint64_t value);
void aml_string(struct bytes *aml, const char *text);
void aml_eisa_id(struct bytes *aml, const char *id); // "PNP0A03"
void aml_return(struct bytes *aml);                  // Return (<the next object>)
void aml_store_arg0(struct bytes *aml, const char *path);

// Resource descriptors; `last` is inclusive.
void aml_io(struct bytes *aml, uint16_t base, uint8_t length);
void aml_irq(struct bytes *aml, unsigned irq); // ISA: edge, active high
void aml_memory32_fixed(struct bytes *aml, uint32_t base, uint32_t length);
void aml_word_bus(struct bytes *aml, uint16_t first, uint16_t last);
void aml_word_io_window(struct bytes *aml, uint16_t first, uint16_t last);
void aml_dword_memory_window(struct bytes *aml, uint32_t first, uint32_t last);
void aml_qword_memory_window(struct bytes *aml, uint64_t first, uint64_t last);
