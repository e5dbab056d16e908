/*
 * base.h - what base/ offers: words, lists, leaf locks, events. No file here uses an object of the cache.
 */
#ifndef PC_BASE_H
#define PC_BASE_H

#include "base/list.h"
#include "base/wait.h"
#include "base/words.h"

#endif
