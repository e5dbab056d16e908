/*
 * world.c - the frame of a schedule: files are made, clients and workers run, and at rest everything has to agree.
 *
 *   clients   3 or 4, each with a few operations drawn from the weights of the kind (clients.h); each owns its random numbers
 *   workers   2 threads of the volume, as the engine's: fills, requests of passes, commits
 *   ballast   most of the smallest possible cache is pinned by a view, so that only a few pages are available
 *
 * At rest: no error is left, and an fsync succeeds. Then a read, storage's answer and its committed content are the
 * same bytes, each a value that the model allows; pc_check; I-25 to I-27.
 */
#include "world.h"

#include "clients.h"

struct kind {
	const char *name;
	u32 traits;
	u8 weights[CLIENT_VERBS];
};

enum {
	FORGETS = 1,
	STAGES = 2,
	DURABLE = 4, /* sometimes */
	FAILS = 8,   /* commits */
	UNITS = 16,  /* whole write units; in half of the worlds storage shows committed bytes only */
	STUCK = 32, /* writes of file 1 return when all clients have ended; one of them writes it, the others read file 0 */
};

static const struct kind kinds[WORLD_KINDS] = {
	/* clang-format off */
	{"plain", FORGETS | DURABLE | FAILS,
	 {[READ] = 5, [WRITE] = 5, [SYNC] = 3, [FLUSH] = 2, [COMMIT] = 1, [DROP] = 1}},
	{"pressure", FORGETS | DURABLE | FAILS,
	 {[READ] = 8, [WRITE] = 5, [SYNC] = 1, [AHEAD] = 2, [PIN] = 2, [FLUSH] = 2}},
	{"cuts", FORGETS | DURABLE | FAILS,
	 {[READ] = 5, [WRITE] = 5, [SYNC] = 2, [TRUNCATE] = 3, [PUNCH] = 3, [FLUSH] = 2, [DROP] = 1}},
	{"views", FORGETS | DURABLE | FAILS,
	 {[READ] = 3, [WRITE] = 3, [SYNC] = 3, [STORE] = 5, [PIN] = 1, [TRUNCATE] = 2, [DROP] = 1, [FLUSH] = 2}},
	{"direct", DURABLE,
	 {[READ] = 5, [WRITE] = 3, [SYNC] = 2, [DIRECT] = 5, [TRUNCATE] = 1, [DROP] = 1, [AHEAD] = 1}},
	{"given-up", FORGETS | FAILS,
	 {[READ] = 6, [WRITE] = 5, [SYNC] = 2, [DISCARD] = 5, [FLUSH] = 3, [COMMIT] = 3, [SETTLE] = 2, [TRUNCATE] = 3}},
	{"staged", STAGES | FAILS,
	 {[READ] = 5, [WRITE] = 6, [SYNC] = 2, [FLUSH] = 4, [DROP] = 3, [TRUNCATE] = 1, [PUNCH] = 1, [SETTLE] = 1}},
	{"units", FORGETS | DURABLE | FAILS | UNITS,
	 {[READ] = 4, [WRITE] = 6, [SYNC] = 3, [FLUSH] = 4, [COMMIT] = 1, [DROP] = 4, [TRUNCATE] = 2, [PUNCH] = 1}},
	{"staged-units", STAGES | FAILS | UNITS,
	 {[READ] = 3, [WRITE] = 6, [SYNC] = 2, [FLUSH] = 5, [DROP] = 4, [TRUNCATE] = 1, [PUNCH] = 1, [SETTLE] = 1}},
	{"stuck", STUCK,
	 {[READ] = 5, [AHEAD] = 1, [PIN] = 1, [DROP] = 1}},
	/* clang-format on */
};

static const struct kind *kind;

static bool is(u32 trait)
{
	return kind->traits & trait;
}

static struct rig rig;
static struct file *ballast;
static struct pc_pin ballast_pins[BALLAST];
static u8 fresh[NR_FILES][BYTES];
static struct client clients[CLIENTS];
static const char *const client_names[CLIENTS] = {"client 1", "client 2", "client 3", "client 4"};

const char *world_kind(u32 k)
{
	return kinds[k].name;
}

/* ---------------------------------------------------------------- names of waits */

static const char *what_is(const void *word)
{
	static char text[64];
	for (u32 k = 0; k < NR_FILES; k++) {
		const struct pc_inode *i = world.files[k]->inode;
		if (!i)
			continue;
		if (word == &i->event.seq)
			return snprintf(text, sizeof(text), "the event of file %u", k), text;
		if (word == &i->leaf.word)
			return snprintf(text, sizeof(text), "the leaf lock of file %u", k), text;
	}
	if (word == &rig.volume->workers.seq)
		return "work";
	if (word == &rig.cache->event.seq)
		return "room";
	const struct pc_event *e = (const void *)((const u8 *)word - offsetof(struct pc_event, seq));
	if (e >= rig.cache->folio_events && e < rig.cache->folio_events + PC_FOLIO_EVENTS)
		return "a folio";
	if (word == &rig.volume->leaf.word || word == &rig.cache->queue_lock.word || word == &rig.cache->room_lock.word)
		return "a leaf lock of level 7";
	if (word == &rig.cache->shadow_lock.word || word == &rig.cache->arena.lock.word)
		return "a leaf lock of level 8";
	return "the inode lock, or the token";
}

/* ---------------------------------------------------------------- the backend */

/* Answers come when the scheduler decides, in any order; now and then one is an error, or short. */
static void meet(struct store *s, enum store_moment when)
{
	const struct client *self = schedule_arg();
	schedule_point(when == STORE_ANSWERS ? "call_answers" : "call_comes");
	if (when == STORE_ANSWERS)
		return;
	if (when == STORE_COMMITS)
		CHECK(world.commit_requested[s == &world.files[1]->store]);
	s->read_error = s->write_error = s->commit_error = 0;
	s->read_max = s->write_max = 0;
	s->parked = false;
	if (is(STUCK) && when == STORE_TAKES && s == &world.files[1]->store)
		while (atomic_load(&world.hung))
			schedule_wait(&world.hung, 1, -1);
	if (!world.trouble || !self || self->calm || schedule_draw(when == STORE_COMMITS ? 2 : 6))
		return;
	world.trouble--;
	if (when == STORE_COMMITS) {
		s->commit_error = is(FAILS) ? -EIO : 0;
	} else if (when == STORE_TAKES) {
		u64 whim = schedule_draw(3);
		s->write_error = whim == 0 ? -EIO : 0;
		s->write_fails_at = schedule_draw(2) ? 0 : schedule_draw(BYTES);
		s->parked = schedule_draw(2);
		s->write_max = whim ? 8 * (1 + schedule_draw(700)) : 0;
	} else {
		s->read_error = schedule_draw(3) ? 0 : -EIO;
		s->read_max = 8 * (1 + schedule_draw(700));
	}
}

/* ---------------------------------------------------------------- a cache */

void world_open(u32 number, u64 seed)
{
	enum { CAPACITY = 16 };
	struct pc_need need = {0};
	kind = &kinds[number];
	seed = (seed + 1) * 0x9e3779b97f4a7c15ull >> 32; /* batches are numbered: neighbours differ in everything */
	schedule_describe(what_is);
	check_name = kind->name;
	u64 order = seed % 3, limit = 2 + seed / 3 % 3;
	rig_open(&rig, CAPACITY * PAGE, (u64)PAGE << order);
	pc_cache_configure(rig.cache, PAGE, limit * PAGE, seed / 9 % 2 ? (u64)PAGE << order : PAGE, true);
	world.rig = &rig;
	world.durable = is(DURABLE) && seed / 18 % 4 == 0;
	world.kind_stages = is(STAGES);
	static const u64 units[] = {CELL, 2 * PAGE, 3 * PAGE, 6 * PAGE}, reads[] = {1, CELL, PAGE};
	world.write_unit = is(UNITS) ? units[seed / 288 % 4] : 1;
	world.read_unit = is(UNITS) ? reads[seed / 1152 % 3] : 1;
	bool lags = is(STAGES) || (is(UNITS) && !world.durable && seed / 3456 % 2);
	if (!is(STUCK)) /* that takes a credit for good */
		pc_volume_set_inflight(rig.volume, 1 + (u32)(seed / 5 % 3));
	ballast = file_open(&rig, BALLAST * PAGE, BALLAST * PAGE);
	u32 pinned = BALLAST - (u32)(seed / 72 % 4);
	if (is(UNITS))
		pinned -= 4; /* a writer beyond a short last unit needs that unit's last page beside its own */
	static u8 bytes[BALLAST * PAGE];
	EQUAL(file_read(ballast, 0, bytes, BALLAST * PAGE), BALLAST * PAGE);
	world.nr_ballast = 0;
	for (u64 pos = 0; pos < pinned * PAGE;) {
		struct pc_pin *pin = &ballast_pins[world.nr_ballast++];
		EQUAL(pc_pin(ballast->inode, pos, BALLAST * PAGE - pos, false, pin, &need), 0);
		pos += pin->len;
	}
	for (u32 k = 0; k < NR_FILES; k++) {
		for (u32 at = 0; at < CELLS; at++)
			cell_fill((u64 *)(void *)(fresh[k] + at * CELL), cell(k, at, 1));
		world.files[k] = calloc(1, sizeof(*world.files[k]));
		store_init(&world.files[k]->store, BYTES, BYTES);
		if (lags)
			store_stages(&world.files[k]->store);
		else if (is(FORGETS) && !world.durable)
			store_forgets(&world.files[k]->store);
		world.files[k]->store.meet = meet;
	}
}

void world_print(void)
{
	static char text[8000];
	for (u32 k = 0; k < CLIENTS; k++)
		client_print(&clients[k], client_names[k]);
	for (u32 k = 0; k < world.nr_files; k++) {
		const struct pc_inode *i = world.files[k]->inode;
		if (!i)
			continue;
		const struct pc_pass *p = &i->pass;
		fprintf(stderr,
			"file %u, inode %" PRIu64 ": size %" PRIu64 ", stored %" PRIu64 ", dirty %" PRIu64
			", in flight %" PRIu64 ", unstable %" PRIu64 ", failed %" PRIu64
			" pages\n  token %u, commit %s%s, pass %s%s%s%s, requests %u\n",
			k, i->id, i->size, i->remote_size, i->nr_dirty, i->nr_writeback, i->nr_unstable, i->nr_failed,
			i->token, i->commit_queued ? "queued " : "", i->commit_running ? "running" : "",
			p->active ? "active " : "", i->pass_wanted ? "wanted " : "", p->queued ? "queued " : "",
			p->integrity ? "of marks" : "", p->inflight);
		u64 index = 0;
		for (u32 id; (id = pc_index_next(world.files[k]->inode, index, PAGES));) {
			const struct pc_folio *f = pc_folio_at(rig.cache, id);
			fprintf(stderr, "  page %" PRIu64 ", %u pages, state %x, references %u\n", pc_folio_index(f),
				1u << pc_folio_order(f), pc_folio_state(f), f->refs);
			index = pc_folio_after(f);
		}
	}
	if (rig.cache && pc_trace_text(rig.cache, text, sizeof(text))) {
		const char *from = strlen(text) > 1600 ? strchr(text + strlen(text) - 1600, '\n') + 1 : text;
		fprintf(stderr, "%s", from);
	}
}

void world_close(void)
{
	for (u32 k = 0; k < world.nr_ballast; k++)
		pc_unpin(rig.cache, &ballast_pins[k]);
	for (u32 k = 0; k < NR_FILES; k++)
		file_forget(world.files[k]);
	rig_close(&rig);
}

/* ---------------------------------------------------------------- a schedule */

static void file_begin(u32 k)
{
	struct file *f = world.files[k];
	struct store *s = &f->store;
	struct cells *c = &world.cells[k];
	struct pc_limits l = limits_wide();
	l.max_read = l.max_write = k ? 2 * PAGE : 1 << 20;
	l.durable_writes = world.durable;
	l.stages = world.kind_stages;
	l.write_unit = s->unit = world.write_unit;
	l.read_unit = world.read_unit;
	memcpy(s->bytes, fresh[k], BYTES);
	memcpy(s->stable, fresh[k], BYTES);
	if (s->left)
		memcpy(s->left, fresh[k], BYTES);
	if (s->kept) {
		memcpy(s->old, fresh[k], BYTES);
		memset(s->kept, 0, BYTES);
	}
	s->size = s->stable_size = BYTES;
	memset(c, 0, sizeof(*c));
	begins(c, 0, CELLS);
	is_done(c, 0, CELLS, 1);
	EQUAL(pc_inode_create(rig.volume, BYTES, &l, &f->inode), 0);
	f->inode->user = f;
}

/* A read, storage's answer and its committed content agree. */
static void file_at_rest(u32 k)
{
	static u64 bytes[BYTES / 8];
	struct file *f = world.files[k];
	struct store *s = &f->store;
	struct cells *c = &world.cells[k];
	u64 size = pc_inode_size(f->inode);
	EQUAL(file_read(f, 0, bytes, BYTES), size);
	EQUAL(size, s->size);
	CHECK(memcmp(bytes, s->bytes, size) == 0);
	if (!world.durable) {
		CHECK(s->stable_size >= size);
		CHECK(memcmp(bytes, s->stable, size) == 0);
	}
	for (u32 at = 0; at < size / CELL; at++)
		judge(k, at, bytes + at * (CELL / 8), c->done[at], "at rest");
	while (work(rig.volume))
		;
	check_counters(f);
}

static void worker(void *arg)
{
	struct pc_volume *v = rig.volume;
	(void)arg;
	while (!world.stop_work) {
		u32 seq = atomic_load(&v->workers.seq);
		if (!work(v) && !world.stop_work)
			wait_event(&v->workers, seq);
	}
}

static void client(void *arg)
{
	struct client *self = arg;
	static const u8 writes[CLIENT_VERBS] = {[WRITE] = 1};
	bool hangs = is(STUCK) && self == &clients[0];
	for (u32 k = 0; k < self->nr_verbs; k++) {
		pc_tick(rig.cache, schedule_now_ns());
		client_act(self, hangs ? 1 : (u32)schedule_draw(world.nr_files), hangs ? writes : kind->weights);
	}
	if (hangs)
		pc_flush_start(world.files[1]->inode, ALL, 0, ALL);
	client_leave(self);
	if (--world.clients_left == 0) {
		world.stop_work = true;
		atomic_store(&world.hung, 0);
		schedule_wake(&world.hung, CLIENTS);
		pc_event_wake(&rig.volume->workers);
	}
}

void world_play(void)
{
	static struct client hands[3];
	u32 nr = 2 + (u32)schedule_draw(CLIENTS - 1);
	world.trouble = schedule_draw(3) ? 0 : 1 + (u32)schedule_draw(4);
	world.stop_work = false;
	world.clients_left = nr;
	world.nr_files = is(STUCK) ? 2 : 1 + (u32)schedule_draw(NR_FILES);
	memset(world.commit_requested, 0, sizeof(world.commit_requested));
	for (u32 k = 0; k < world.nr_files; k++)
		file_begin(k);
	for (u32 k = 0; k < CLIENTS; k++)
		clients[k].nr_acts = 0;
	for (u32 k = 0; k < nr; k++) {
		clients[k].nr_verbs = 1 + (u32)schedule_draw(3);
		clients[k].calm = false;
		schedule_add(client_names[k], client, &clients[k]);
	}
	schedule_add("worker 1", worker, &hands[0]);
	schedule_add("worker 2", worker, &hands[1]);
	if (is(STUCK)) {
		world.nr_files = 1; /* for the others */
		clients[0].nr_verbs = 1;
		schedule_add("worker 3", worker, &hands[2]);
	}
	atomic_store(&world.hung, 1);
	check_threads = true;
	schedule_run();
	check_threads = false;
	world.nr_files += is(STUCK);
	world.trouble = 0;
	while (work(rig.volume))
		;
	SOUND(&rig);
	for (u32 k = 0; k < world.nr_files; k++)
		client_sync(k);
	for (u32 k = 0; k < world.nr_files; k++)
		file_at_rest(k);
	SOUND(&rig);
	for (u32 k = 0; k < world.nr_files; k++) {
		EQUAL(inode_free(world.files[k]->inode), 0);
		world.files[k]->inode = NULL;
	}
	struct pc_cache_usage u;
	pc_cache_usage_get(rig.cache, &u);
	EQUAL(u.used, usage(ballast, NULL).cached);
	EQUAL(u.local + u.requests + u.shadows, 0);
	EQUAL((u.frames_allocated - u.frames_freed) * PAGE, u.used);
	EQUAL(pc_volume_inflight(rig.volume), 0);
}
