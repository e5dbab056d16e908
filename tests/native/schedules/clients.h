/* clients.h - the operations of clients in schedules and threads, each with its effect on the model. */
#ifndef CLIENTS_H
#define CLIENTS_H

#include "model.h"

static void client_sync(u32 file);

/* ---------------------------------------------------------------- reading */

static void act_read(struct client *self, u32 file)
{
	struct cells *c = &world.cells[file];
	u64 at, n;
	range(self, &at, &n);
	note_done(c, self->before, at, at + n);
	int64_t got = file_read(world.files[file], at * CELL, self->buffer, n * CELL);
	if (got < 0)
		return; /* the backend's error, or nothing can be evicted now */
	for (u64 k = 0; k < n; k++) {
		if ((k + 1) * CELL <= (u64)got)
			judge(file, (u32)(at + k), self->buffer + k * (CELL / 8), self->before[at + k], "read");
		else
			judge_end(file, (u32)(at + k), self->before[at + k], "read");
	}
}

static void act_read_ahead(u32 file)
{
	u64 page = schedule_draw(PAGES);
	struct pc_readahead ra = {.from = page ? page - 1 : 0, .end = page + 1, .max = 4};
	pc_readahead_marker(world.files[file]->inode, &ra, page);
}

static void unpin(struct client *self, u32 n)
{
	while (n-- && self->nr_pins)
		pc_unpin(world.rig->cache, &self->pins[--self->nr_pins]);
}

static void act_pin(struct client *self, u32 file)
{
	struct pc_need need = {0};
	if (self->nr_pins == 4 || schedule_draw(3) == 0)
		unpin(self, 1);
	else if (pc_pin(world.files[file]->inode, schedule_draw(BYTES), CELL, false, &self->pins[self->nr_pins],
			&need) == 0)
		self->nr_pins++;
}

/* ---------------------------------------------------------------- writing */

static void commit(u32 file, u64 stamp)
{
	world.commit_requested[file] = true;
	pc_commit_start(world.files[file]->inode, stamp);
}

/* Take room as a throttled writer of the engine: queued, while everything is written back and committed. */
static void take_room(struct file *f, struct pc_place *p, u64 pos, u64 len)
{
	struct pc_cache *c = world.rig->cache;
	pc_place_open(f->inode, p, pos, len);
	if (pc_dirty_room(f->inode, len) || pc_room_take(f->inode, p, false))
		return;
	for (int tries = 0;; tries++) {
		u32 seq = pc_cache_event_seq(c);
		pc_line_first(f->inode, p);
		if (pc_room_take(f->inode, p, false))
			return;
		CHECK(tries < 10000);
		for (u32 k = 0; k < world.nr_files; k++) {
			pc_retry(world.files[k]->inode, 0, ALL, true);
			pc_flush_start(world.files[k]->inode, ALL, 0, ALL);
			commit(k, 0);
		}
		atomic_fetch_add(&c->event.waiters, 1);
		pc_futex_wait(&c->event.seq, seq, 5000000);
		atomic_fetch_sub(&c->event.waiters, 1);
	}
}

static void act_write(struct client *self, u32 file)
{
	struct cells *c = &world.cells[file];
	struct file *f = world.files[file];
	struct pc_need need = {0};
	struct pc_place place;
	u64 at, n, done = 0;
	range(self, &at, &n);
	take_room(f, &place, at * CELL, n * CELL);
	lock_inode(f, PC_EXCLUSIVE);
	u32 version = begins(c, at, at + n);
	u64 old = pc_inode_size(f->inode) / CELL;
	for (u64 k = 0; k < n; k++)
		cell_fill(self->buffer + k * (CELL / 8), cell(file, at + k, version));
	if (at > old) /* the gap is a hole */
		is_cut(c, old, at, version);
	bool whole = schedule_draw(4) == 0;
	while (done < n * CELL) {
		u64 pos = at * CELL + done, left = n * CELL - done;
		const u8 *from = (u8 *)self->buffer + done;
		done += (u64)(whole ? pc_write_whole : pc_write)(f->inode, pos, from, left, &need);
		if (done == n * CELL || need.kind == PC_NEED_ROOM || provide(f, &need))
			break; /* all of it, or the accepted part is complete, and ends on a cell */
	}
	is_done(c, at, at + done / CELL, version);
	pc_inode_lock_release(f->inode, PC_EXCLUSIVE);
	pc_place_close(f->inode, &place);
}

/* Store as a writer, but through the memory of a view, which stays pinned for a while. */
static void act_store(struct client *self, u32 file)
{
	struct cells *c = &world.cells[file];
	struct file *f = world.files[file];
	struct pc_pin *pin = &self->pins[self->nr_pins];
	u64 at, n;
	if (self->nr_pins == 4) {
		unpin(self, 2);
		return;
	}
	range(self, &at, &n);
	lock_inode(f, PC_EXCLUSIVE);
	u64 end = pc_inode_size(f->inode) / CELL;
	if (at < end && pin_to_store(f, at * CELL, pc_min(n, end - at) * CELL, pin) == 0) {
		n = pin->len / CELL;
		u32 version = begins(c, at, at + n);
		for (u64 k = 0; k < n; k++) {
			cell_fill(self->buffer, cell(file, at + k, version));
			schedule_point("view_stores");
			view_store(pin->memory + k * CELL, self->buffer, CELL);
		}
		is_done(c, at, at + n, version);
		self->nr_pins++;
	}
	pc_inode_lock_release(f->inode, PC_EXCLUSIVE);
	if (schedule_draw(2))
		unpin(self, 1);
}

/* ---------------------------------------------------------------- cutting */

static void act_cut(struct client *self, u32 file, bool punch)
{
	struct cells *c = &world.cells[file];
	struct file *f = world.files[file];
	u64 at, n;
	range(self, &at, &n);
	u64 end = punch ? at + n : CELLS;
	stop_the_file(f, punch ? at * CELL : 0, ALL);
	if (!punch && pc_views_reserve(f->inode, at * CELL))
		end = at; /* no memory for a copy of a view's bytes: refused */
	if (punch)
		end = pc_min(end, pc_inode_remote_size(f->inode) / CELL);
	if (at < end) {
		u32 version = begins(c, at, end);
		is_cut(c, at, end, version);
		schedule_point("call_comes");
		if (punch)
			store_punch(&f->store, at * CELL, end * CELL);
		else
			store_truncate(&f->store, at * CELL);
		schedule_point("call_answers");
		if (punch)
			pc_punch(f->inode, at * CELL, end * CELL, !world.durable);
		else
			pc_truncate(f->inode, at * CELL, !world.durable);
		is_done(c, at, end, version);
	}
	if (!punch)
		pc_views_unreserve(f->inode);
	let_the_file_go(f);
}

/* Discard local bytes of the range: any older content may come back. */
static void act_discard(struct client *self, u32 file)
{
	struct cells *c = &world.cells[file];
	struct file *f = world.files[file];
	u64 at, n;
	range(self, &at, &n);
	take_token(f);
	if (pc_views_cut(f->inode, at * CELL, (at + n) * CELL, true) == 0) {
		u64 first = at * CELL / PAGE * (PAGE / CELL);
		set_all(c->lost, first, CELLS, LOSING); /* discarding a local end takes the size along */
		pc_discard(f->inode, at * CELL, (at + n) * CELL, true);
		set_all(c->lost, first, CELLS, c->version);
	}
	pc_token_release(f->inode);
}

/* ---------------------------------------------------------------- past the cache */

/* Take the inode lock for a direct write. Return: its mode, or -1: bytes of the range stay local, under a view. */
static int direct_locked(u32 file, u64 at, u64 n)
{
	struct file *f = world.files[file];
	if (schedule_draw(2) && pc_direct_may_share(f->inode, at * CELL, (at + n) * CELL)) {
		lock_inode(f, PC_SHARED);
		if (pc_direct_may_share(f->inode, at * CELL, (at + n) * CELL))
			return PC_SHARED;
		pc_inode_lock_release(f->inode, PC_SHARED);
	}
	lock_inode(f, PC_EXCLUSIVE);
	client_sync(file);
	if (!pc_range_local(f->inode, at * CELL, (at + n) * CELL))
		return PC_EXCLUSIVE;
	pc_inode_lock_release(f->inode, PC_EXCLUSIVE);
	return -1;
}

static void write_directly(struct client *self, u32 file, u64 at, u64 n)
{
	struct cells *c = &world.cells[file];
	struct file *f = world.files[file];
	u64 pos = at * CELL, end = (at + n) * CELL, old = pc_inode_size(f->inode) / CELL, failed;
	int64_t got;
	CHECK(pc_direct_begin(f->inode, &failed));
	u32 version = begins(c, at, at + n);
	if (at > old)
		is_cut(c, old, at, version);
	for (u64 k = 0; k < n; k++)
		cell_fill(self->buffer + k * (CELL / 8), cell(file, at + k, version));
	pc_invalidate_range(f->inode, pos, end);
	do {
		struct pc_part part = {.memory = (u8 *)self->buffer, .len = n * CELL};
		got = store_write(&f->store, pos, &part, 1);
		pc_direct_answer(f->inode, pos, pos + (got > 0 ? (u64)got : 0), end);
	} while (!pc_direct_end(f->inode, pos, end, &failed, got < 0));
	is_done(c, at, at + (got > 0 ? (u64)got / CELL : 0), version);
}

static void act_direct(struct client *self, u32 file)
{
	struct cells *c = &world.cells[file];
	u64 at, n;
	range(self, &at, &n);
	for (u64 k = at; k < at + n; k++)
		if (c->direct[k])
			return; /* of two at once it is unknown which is newer */
	memset(c->direct + at, 1, n);
	int mode = direct_locked(file, at, n);
	self->calm = true;
	if (mode >= 0)
		write_directly(self, file, at, n);
	memset(c->direct + at, 0, n);
	self->calm = false;
	if (mode >= 0)
		pc_inode_lock_release(world.files[file]->inode, mode);
}

/* ---------------------------------------------------------------- saving */

/* The user repairs the cause of failures. */
static void repair(struct file *f)
{
	pthread_mutex_lock(&f->store.lock);
	f->store.write_error = f->store.commit_error = 0;
	pthread_mutex_unlock(&f->store.lock);
	pc_retry(f->inode, 0, ALL, true);
}

/* Sync until it succeeds: then the store has everything that was complete before. */
static void client_sync(u32 file)
{
	struct cells *c = &world.cells[file];
	struct file *f = world.files[file];
	u32 before[CELLS];
	note_done(c, before, 0, CELLS);
	u64 stamp = pc_epoch_take(f->inode->volume);
	world.commit_requested[file] = true;
	for (int tries = 0; fsync_stamp(f, stamp); tries++) {
		CHECK(tries < 1000);
		repair(f);
		if (check_threads)
			pc_yield();
	}
	pthread_mutex_lock(&f->store.lock);
	const u64 *stored = (const void *)(world.durable ? f->store.bytes : f->store.stable);
	u64 end = (world.durable ? f->store.size : f->store.stable_size) / CELL;
	for (u32 k = 0; k < CELLS; k++) {
		if (k < end)
			judge(file, k, stored + k * (CELL / 8), before[k], "fsync");
		else
			judge_end(file, k, before[k], "fsync");
	}
	pthread_mutex_unlock(&f->store.lock);
}

/* ---------------------------------------------------------------- the next operation */

static void client_act(struct client *self, u32 file, const u8 *weights)
{
	u32 sum = 0, verb = 0;
	struct pc_inode *i = world.files[file]->inode;
	for (u32 k = 0; k < CLIENT_VERBS; k++)
		sum += weights[k];
	for (u32 at = (u32)schedule_draw(sum); at >= weights[verb]; verb++)
		at -= weights[verb];
	u64 pos = schedule_draw(BYTES), len = schedule_draw(3 * PAGE);
	self->acts[self->nr_acts++] = (struct act){.verb = (u8)verb, .file = (u8)file};
	switch (verb) {
	case READ: act_read(self, file); break;
	case WRITE: act_write(self, file); break;
	case SYNC: client_sync(file); break;
	case FLUSH:
		if (schedule_draw(2))
			pc_pass_background(i, 4 * PAGE, false);
		else
			flush_range(world.files[file], pc_epoch_take(i->volume), pos, pos + len);
		break;
	case COMMIT: commit(file, 0); break;
	case DROP:
		if (schedule_draw(2))
			pc_drop_clean(i, pos, pos + len);
		else
			pc_invalidate_range(i, pos, pos + len);
		break;
	case AHEAD: act_read_ahead(file); break;
	case PIN: act_pin(self, file); break;
	case STORE: act_store(self, file); break;
	case TRUNCATE: act_cut(self, file, false); break;
	case PUNCH: act_cut(self, file, true); break;
	case DIRECT: act_direct(self, file); break;
	case DISCARD: act_discard(self, file); break;
	case SETTLE: pc_settle_start(i); break;
	default: CHECK(0);
	}
}

static const char *const verb_names[] = {
	"read",        "write",  "fsync",
	"flush",       "commit", "drop",
	"read ahead",  "view",   "store to a view of",
	"truncate at", "punch",  "write directly",
	"discard",     "settle",
};

static MAYBE void client_print(const struct client *self, const char *name)
{
	for (u32 k = 0; k < self->nr_acts; k++) {
		const struct act *a = &self->acts[k];
		fprintf(stderr, "%s%s %s file %u", k ? ", " : "", k ? "" : name, verb_names[a->verb], a->file);
		if (a->n)
			fprintf(stderr, " [%u, %u)", a->at * CELL, (a->at + a->n) * CELL);
	}
	fprintf(stderr, "%s", self->nr_acts ? "\n" : "");
}

void client_leave(struct client *self)
{
	unpin(self, self->nr_pins);
}

#endif
