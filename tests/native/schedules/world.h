/*
 * world.h - a small world for schedules: two files, a handful of pages, four who use them, two who work, a backend with whims.
 */
#ifndef WORLD_H
#define WORLD_H

#include <stdbool.h>
#include <stdint.h>

/* What a world is about: weights of what its clients do (world.c has the table). */
enum { WORLD_KINDS = 10 };
const char *world_kind(uint32_t kind);

/* A cache for some thousand schedules, one after another. @seed: its shape (folio sizes, free memory, limits). */
void world_open(uint32_t kind, uint64_t seed);

/* One schedule, from fresh files to files at rest, checked. schedule_begin() has been called. A failure aborts. */
void world_play(void);

/* The end of the trace ring and how the files stand, on stderr: of a schedule that failed. */
void world_tell(void);

/* Nothing may be left. */
void world_close(void);

#endif
