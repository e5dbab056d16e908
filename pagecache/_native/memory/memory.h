/*
 * memory.h - what memory/ offers: frames, pools of objects with ids, scratch memory of requests, bytes with checksums. No file
 * here uses a folio.
 */
#ifndef PC_MEMORY_H
#define PC_MEMORY_H

#include "memory/arena.h"
#include "memory/pool.h"

/* scratch.c */
void *pc_scratch_new(size_t size);
void pc_scratch_free(void *memory);

#endif
