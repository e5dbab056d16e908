/*
 * watch.h - an event of CORE for waiters that cannot sleep, such as tasks of an event loop (watch.c).
 */
#ifndef PC_WATCH_H
#define PC_WATCH_H

#include "base/list.h"
#include "base/wait.h"

/* One event loop: its eventfd is readable while anything of it has fired and is not ended. */
struct pc_waker {
	struct pc_list fired; /* watches; under the lock of watch.c, like everything here but fd */
	int fd;
	u32 epoch; /* of forks, when it was made */
};

/* One wait. Part of whatever waits, which ends it before it goes. */
struct pc_watch {
	struct pc_list link;
	struct pc_event *event; /* armed: of memory that outlives the watch */
	struct pc_waker *waker;
	u8 state;
};
enum { PC_WATCH_IDLE, PC_WATCH_ARMED, PC_WATCH_FIRED };

int pc_waker_init(struct pc_waker *k);
void pc_waker_close(struct pc_waker *k);
size_t pc_waker_fired(struct pc_waker *k, struct pc_watch **out, size_t n);
void pc_watch_init(struct pc_watch *w, struct pc_waker *k);
void pc_watch_arm(struct pc_watch *w, struct pc_event *e, u32 seq);
void pc_watch_fire(struct pc_watch *w);
void pc_watch_end(struct pc_watch *w);
void pc_watch_forked(void);

#endif
