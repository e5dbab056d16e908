/*
 * model.h - the parts of a world, and the model of the permitted values of every byte.
 *
 * A file is an array of cells of 512 bytes; a cell is filled with words that name file, cell and version. Versions of a
 * file are counted: a change has one from its beginning, under the inode lock. Of each cell the model keeps the newest
 * change that has begun, the newest complete one, the newest cut (zeros) that has begun, and the newest loss (discard). A
 * read may see versions from `done` at its beginning to `begun` at its end, zeros if a cut explains them, anything older if
 * a loss does. In a schedule no point splits fields that belong together. Real threads (test_threads.c) read beside writers,
 * and then have some bytes of each version: a processor may copy bytes, however wide they are.
 */
#ifndef MODEL_H
#define MODEL_H

#include "rig.h"

#ifdef PC_SCHEDULED
#include "schedule.h"
enum { NR_FILES = 2, PAGES = 6, CLIENTS = 4 };
#else
#define schedule_draw         draw
#define schedule_point(point) ((void)0)
enum { NR_FILES = 4, PAGES = 32, CLIENTS = 9 };
#endif
enum { CELL = 512, BYTES = PAGES * PAGE, CELLS = BYTES / CELL, BALLAST = 12 };
enum { READ, WRITE, SYNC, FLUSH, COMMIT, DROP, AHEAD };
enum { PIN = AHEAD + 1, STORE, TRUNCATE, PUNCH, DIRECT, DISCARD, SETTLE, CLIENT_VERBS };
#define LOSING UINT32_MAX

struct cells {
	_Atomic u32 version;
	_Atomic u32 begun[CELLS], done[CELLS], cut[CELLS], lost[CELLS];
	u8 direct[CELLS]; /* a direct write of it runs */
};

/* For people: the current or last action of a client. */
struct act {
	u8 verb, file;
	u16 at, n; /* cells, if it concerns some */
};

struct client {
	u32 nr_verbs, nr_pins, nr_acts;
	struct act acts[4];
	bool calm; /* the backend has no random faults with it */
	struct pc_pin pins[4];
	u64 buffer[BYTES / 8];
	u32 before[CELLS];
};

struct world {
	struct rig *rig;
	struct file *files[NR_FILES];
	struct cells cells[NR_FILES];
	u32 nr_files, nr_ballast, clients_left;
	u32 trouble;            /* random faults left to the backend */
	_Atomic u32 hung;       /* calls that hang go on when it is 0 */
	_Atomic bool commit_requested[NR_FILES]; /* a client requested a commit */
	u64 write_unit, read_unit;
	bool durable, kind_stages, stop_work;
};
static struct world world;

static inline u64 cell(u32 file, u64 at, u64 version)
{
	return (u64)(file + 1) << 56 | at << 32 | version;
}

static inline void cell_fill(u64 *words, u64 word)
{
	for (u32 k = 0; k < CELL / 8; k++)
		words[k] = word;
}

static _Noreturn void wrong(u32 file, u32 at, u64 value, u32 done, const char *reader)
{
	const struct cells *c = &world.cells[file];
	fprintf(stderr,
		"%s: file %u, cell %u (byte %u): %" PRIx64
		", which is version %u; complete %u, newest %u, cut %u, lost %u\n",
		reader, file, at, at * CELL, value, (u32)value, done, c->begun[at], c->cut[at], c->lost[at]);
	check_failed(__FILE__, __LINE__, "a byte has a value that it never had", at, value);
}

static bool lost(const struct cells *c, u32 at, u32 done)
{
	return c->lost[at] >= done;
}

/* Return whether each byte is that of a version of these, or of the zeros of a cut. */
static MAYBE bool mixed(u32 file, u64 at, u64 word, u32 from, u32 to, bool zeros)
{
	for (u32 shift = 0; shift < 64; shift += 8) {
		u8 byte = (u8)(word >> shift);
		bool known = zeros && byte == 0;
		for (u32 version = from; !known && version <= to; version++)
			known = byte == (u8)(cell(file, at, version) >> shift);
		if (!known)
			return false;
	}
	return true;
}

/* Judge a cell as read by a client that began when `done` was complete. */
static void judge(u32 file, u32 at, const u64 *words, u32 done, const char *reader)
{
	const struct cells *c = &world.cells[file];
	bool even = memcmp(words, words + 1, CELL - 8) == 0;
	u32 newest = c->begun[at], from = lost(c, at, done) ? 1 : done;
	bool zeros = c->cut[at] && c->cut[at] >= from;
	for (u32 k = 0; k < (even ? 1 : CELL / 8); k++) {
		u32 version = (u32)words[k];
		if (words[k] == 0 ? zeros : words[k] == cell(file, at, version) && version >= from && version <= newest)
			continue;
#ifndef PC_SCHEDULED
		if (newest > from && mixed(file, at, words[k], from, newest, zeros))
			continue;
#endif
		wrong(file, at, words[k], done, reader);
	}
}

/* Judge a read in which the end of the file was before this cell. */
static void judge_end(u32 file, u32 at, u32 done, const char *reader)
{
	const struct cells *c = &world.cells[file];
	if (!(c->cut[at] && c->cut[at] >= done) && !lost(c, at, done))
		wrong(file, at, 0, done, reader);
}

static void range(struct client *self, u64 *at, u64 *n)
{
	u32 pages = schedule_draw(2) ? 2 : PAGES; /* some bytes are expensive for all */
	*at = schedule_draw(3) ? schedule_draw(pages * (PAGE / CELL)) : schedule_draw(pages) * (PAGE / CELL);
	*n = schedule_draw(3) ? 1 + schedule_draw(10) : (1 + schedule_draw(3)) * (PAGE / CELL);
	*n = pc_min(*n, CELLS - *at);
	self->acts[self->nr_acts - 1].at = (u16)*at;
	self->acts[self->nr_acts - 1].n = (u16)*n;
}

static void set_all(_Atomic u32 *numbers, u64 at, u64 end, u32 version)
{
	for (u64 k = at; k < end; k++)
		atomic_store_explicit(&numbers[k], version, memory_order_release);
}

/* A change of the range begins; before any part of it shows. */
static u32 begins(struct cells *c, u64 at, u64 end)
{
	u32 version = ++c->version;
	set_all(c->begun, at, end, version);
	return version;
}

static void is_done(struct cells *c, u64 at, u64 end, u32 version)
{
	set_all(c->done, at, end, version);
}

static void is_cut(struct cells *c, u64 at, u64 end, u32 version)
{
	set_all(c->cut, at, end, version);
	set_all(c->begun, at, end, version);
}

/* Note the newest complete changes. */
static void note_done(const struct cells *c, u32 *before, u64 at, u64 end)
{
	for (u64 k = at; k < end; k++)
		before[k] = atomic_load_explicit(&c->done[k], memory_order_acquire);
}

#endif
