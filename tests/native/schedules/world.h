/*
 * world.h - a small world for schedules: two files, a handful of pages, four clients, two workers, a backend with
 * random faults.
 */
#ifndef WORLD_H
#define WORLD_H

#include <stdbool.h>
#include <stdint.h>

/* Kinds of worlds: weights of the clients' operations (world.c has the table). */
enum { WORLD_KINDS = 10 };
const char *world_kind(uint32_t kind);

/* A cache for some thousand schedules, one after another. @seed: its shape (folio sizes, free memory, limits). */
void world_open(uint32_t kind, uint64_t seed);

/* One schedule, from fresh files to files at rest, checked. schedule_begin() has been called. A failure aborts. */
void world_play(void);

/* Print the end of the trace ring and the state of the files on stderr: of a schedule that failed. */
void world_print(void);

/* Close the world and check that nothing is left. */
void world_close(void);

#endif
