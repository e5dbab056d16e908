"""A model of names and objects: removes, renames, opens and reads beside commits, direct writes and lost answers.

A search visits all orders of the steps of a few processes. A process is a program counter; each step is one atomic
action of a thread or of the store. The rules are guards, and a search without a guard has to find a counterexample.
There are two worlds:

    whole   names a and b, files F (open, with an unsaved byte) and N, in a store of whole objects with conditional puts
    place   file F in place: direct appends, opens that look and apply later, a discard, a replaced or reused object

A state is a dict. In `whole`: the objects of the store `sa`, `sb`; bound files `na`, `nb`; holders of names `ha`, `hb`;
`foreign`: another program has acted; `lost`: answers that may still be lost; `net`: a request that was given up and may
land. Of a file F: `Fbase` (version of its bytes), `Fcond` (version that its put replaces), `Fatt` (attempt without an
answer), `Fbusy` and `Fseq` (own changes), `Fdoubt`, `Fgone`, `Fconf`, `Flocal`, `Ftok` (holder of its token), `Fnm`
(its name), `Ffol` (a fill). Of a process p: `p` (counter), `pv` (a version it has seen), `pq` (what it has read), `pr`
(result), `pn` (rounds).

The model has no third name, directories, links, mounts, reconnects, announcements or partial commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .checker import Bad, Found, Graph

__all__ = ["ALL", "GUARDS", "LATE", "late_requests", "runs"]

State = dict[str, Any]
Steps = list[tuple[str, State]]
Guards = frozenset[str]
Process = Callable[[State, str, Guards], Steps]

WHOLE = (
    *("names-first", "token-remove", "recheck", "gone-ends", "give-folio", "dated", "identity", "settle-lost"),
    *("delete-copied", "base-kept", "keep-base", "conflict-stays"),
)
PLACE = ("direct-dates", "gate", "counted-no-token", "look-by-token", "found-identity", "generation")
GUARDS = (*WHOLE, *PLACE)
ALL: Guards = frozenset(GUARDS)
ROUNDS_MAX = 6


# ------------------------------------------------------------------------------------------------ whole objects


def whole_start(script: str, *, unborn: bool, lost: int) -> State:
    """Return the first state; `unborn`: F was never stored, `lost`: answers that may be lost."""
    state: State = {"sa": None if unborn else "B", "sb": "N", "na": "F", "nb": "N", "ha": None, "hb": None}
    state |= {"foreign": 0, "lost": lost, "net": None}
    if "C" in script:
        state |= {"sb": None, "nb": None}  # N is not there yet: C creates it under a
    for file, name in (("F", "a"), ("N", "b")):
        base = state["sa"] if file == "F" else state["sb"]
        fields = {"base": base, "cond": base, "att": "", "busy": 0, "seq": 0, "doubt": 0, "gone": "", "conf": 0}
        fields |= {"local": int(file == "F"), "tok": None, "nm": name, "fol": None}
        state |= {file + field: value for field, value in fields.items()}
    for process in script:
        state |= {process: "0", process + "v": None, process + "q": None, process + "r": "", process + "n": 0}
    return state


def origin(version: str | None) -> str | None:
    """Return the version that a copy carries over: F1' is a copy of F1."""
    return version and version.rstrip("'")


def begin_change(state: State, file: str) -> None:
    state[file + "busy"] += 1
    state[file + "seq"] += 1


def end_change(state: State, file: str) -> None:
    state[file + "busy"] -= 1
    state[file + "seq"] += 1


def bound(state: State, name: str) -> str | None:
    """Return the file of a name, if it is not gone."""
    file: str | None = state["n" + name]
    return None if file is None or state[file + "gone"] else file


def finish(state: State, process: str, result: str) -> State:
    state |= {process: "end", process + "r": result}
    return state


def take(state: State, file: str, version: str | None) -> None:
    """Record the answer of an own commit: its bytes are saved."""
    state.update(
        {file + "base": version, file + "cond": version, file + "local": 0, file + "doubt": 0, file + "att": ""}
    )


def apply_foreign(state: State, file: str, version: str | None, on: Guards) -> None:
    """Apply a look that found neither the base nor an own version. The token is free, or held by the caller."""
    if not state["foreign"]:
        raise Bad("an own change is taken for a foreign one")
    if state[file + "local"] and "conflict-stays" in on:
        state[file + "conf"] = 1
    elif state[file + "local"]:
        raise Bad("unsaved bytes are given up without a report")
    else:
        state[file + "gone"] = "replaced" if version else "removed"  # only the holder of a name changes its binding


def publish(state: State, process: str, on: Guards, file: str = "F") -> Steps:
    """fsync or close: wait for the token, look if in doubt, put, apply the answer."""
    new, at = dict(state), state[process]
    if at == "0":
        if state[file + "gone"] == "removed" and "gone-ends" in on:
            return [("fsync: no name, ends", finish(new, process, "gone"))]
        if state[file + "gone"] == "replaced" or state[file + "conf"]:
            return [("fsync: ConflictError", finish(new, process, "conflict"))]
        if not state[file + "local"]:
            return [("fsync: ok", finish(new, process, "ok"))]
        new |= {process: "q", process + "q": (state[file + "nm"], state[file + "gone"])}
        return [("fsync wants the token", new)]
    if at == "q":
        if state[file + "tok"]:
            return []
        return [("fsync has the token", new | {file + "tok": process, process: "t"})]
    name, gone = (state[file + "nm"], state[file + "gone"]) if "recheck" in on else state[process + "q"]
    place = "s" + name
    if at == "t":
        return commit(state, process, on, file, place, gone)
    if at == "p":
        return put(state, process, file, place)
    end_change(new, file)
    new |= {file + "tok": None, process: "0"}
    answer = state[process + "v"]
    if answer == "ok":
        new |= {file + "base": file + "1", file + "cond": file + "1", file + "local": 0}
    else:
        new[file + "doubt"] = 1
        if answer == "lost" and "settle-lost" in on:
            new[file + "att"] = file + "1"
    return [(f"commit ends: {answer}", new)]


def commit(state: State, process: str, on: Guards, file: str, place: str, gone: str) -> Steps:
    new, version = dict(state), state[place]
    if gone or not state[file + "local"]:
        return [("commit: nothing to publish", new | {file + "tok": None, process: "0"})]
    if state[file + "doubt"]:
        if origin(version) and origin(version) == state[file + "att"]:
            take(new, file, version)
        elif version == state[file + "cond"]:
            new[file + "doubt"] = 0
        elif "keep-base" not in on:
            new |= {file + "cond": version, file + "doubt": 0}  # unknown: whatever is stored
        else:
            apply_foreign(new, file, version, on)
            new |= {file + "tok": None, process: "0"}
        return [(f"commit looks, finds {version}", new)]
    begin_change(new, file)
    return [("commit sends its put", new | {process: "p"})]


def put(state: State, process: str, file: str, place: str) -> Steps:
    new = dict(state)
    if state[place] != state[file + "cond"]:
        return [("put is refused", new | {process: "r", process + "v": "stale"})]
    if state[place] == "X":
        raise Bad("a foreign version is overwritten without a conflict")
    new |= {place: file + "1", process: "r", process + "v": "ok"}
    steps = [("put is carried out", new)]
    if state["lost"]:
        lost = {process + "v": "lost", "lost": state["lost"] - 1}
        steps.append(("put is carried out, answer lost", new | lost))
        if "Z" in state:
            late = {process: "r", process + "v": "lost", "lost": 0, "net": (place, state[file + "cond"], file + "1")}
            steps.append(("put: no answer", state | late))
    return steps


def remove(state: State, process: str, on: Guards) -> Steps:
    new, at = dict(state), state[process]
    file: Any = state[process + "q"] or bound(state, "a")
    if at == "0":
        if state["ha"]:
            return []
        new |= {"ha": process, process: "t", process + "q": file}
        if file is None:
            new["ha"] = None
            finish(new, process, "ENOENT")
        return [("remove(a) holds the name", new)]
    if at == "t":
        if "token-remove" in on:
            if state[file + "tok"]:
                return []
            new[file + "tok"] = process
        begin_change(new, file)
        return [("remove begins", new | {process: "h"})]
    if at == "h":
        return [(f"remove: head finds {state['sa']}", new | {process: "d", process + "v": state["sa"]})]
    if at == "d":
        if state[process + "v"] is None:
            return [("remove: never stored", new | {process: "e"})]
        new |= {"sa": None, process: "e"}
        steps = [("delete", new)]
        if state["lost"]:
            steps.append(("delete, answer lost", new | {process: "l", "lost": state["lost"] - 1}))
            if "Z" in state:
                condition = "any" if "late-unconditional" in on else state[process + "v"]
                steps.append(("delete: no answer", state | {process: "l", "lost": 0, "net": ("sa", condition, None)}))
        return steps
    if at == "l":
        if "settle-lost" in on:
            return [("remove looks again", new | {process: "e" if state["sa"] is None else "d"})]
        end_change(new, file)
        new |= {file + "tok": None, "ha": None}
        return [("remove: error, own part not done", finish(new, process, "error"))]
    new |= {"na": None, "ha": None, file + "gone": "removed"}
    end_change(new, file)
    if state[file + "tok"] == process:
        new[file + "tok"] = None
    return [("remove: ok", finish(new, process, "ok"))]


def rename(state: State, process: str, on: Guards) -> Steps:
    """rename(a, b) as copy and conditional delete; the destination behaves as removed."""
    new, at, names_first = dict(state), state[process], "names-first" in on
    files = state[process + "q"] or tuple(file for name in "ab" if (file := bound(state, name)) is not None)
    if at == ("0" if names_first else "1"):
        if state["ha"] or state["hb"]:
            return []
        return [("rename holds both names", new | {"ha": process, "hb": process, process: "1" if names_first else "l"})]
    if at == ("1" if names_first else "0"):
        if any(state[file + "tok"] for file in files):
            return []
        new |= {file + "tok": process for file in files}
        return [("rename has the tokens", new | {process: "l" if names_first else "1", process + "q": files})]
    return rename_step(state, process, on, files)


def release(state: State, process: str, result: str) -> State:
    """End a rename: give names and tokens back."""
    state |= {"ha": None, "hb": None} | {file + "tok": None for file in "FN" if state[file + "tok"] == process}
    return finish(state, process, result)


def rename_step(state: State, process: str, on: Guards, files: tuple[str, ...]) -> Steps:
    """Continue a rename that has names and tokens."""
    new, at = dict(state), state[process]
    version = (state[process + "v"] or (None, None))[0]
    if at == "l":
        if bound(state, "a") is None:
            return [("rename: no source", release(new, process, "ENOENT"))]
        for file in files:
            begin_change(new, file)
        new |= {process: "c", process + "v": (state["sa"], state["sb"])}
        return [(f"rename looks: a={state['sa']} b={state['sb']}", new)]
    if at == "c":
        return copy(state, process, on, files, version)
    if at == "cl":
        return [("rename looks for its copy", new | {process: "d" if state["sb"] == f"{version}'" else "c"})]
    if at == "d":
        if state["sa"] == version or "delete-copied" not in on:
            if state["sa"] == "X" != version:
                raise Bad("rename deletes a version that it did not copy")
            new["sa"] = None
        new[process] = "e"
        lost = [("delete, answer lost", new | {process: "dl", "lost": state["lost"] - 1})] if state["lost"] else []
        return [("delete of the source", new), *lost]
    if at == "dl":
        if "settle-lost" in on:
            return [("rename looks at both names", new | {process: "e" if state["sa"] != version else "d"})]
        for file in files:
            end_change(new, file)
        release(new, process, "error")
        return [("rename: error, repeated", new | {process: "0", process + "q": None})]
    own = version is not None and origin(version) == state["Fatt"]
    if version is None:
        new["Fcond"] = state["sb"]  # a draft: its commit replaces what is there
    elif version == state["Fbase"] or own or "base-kept" not in on:
        new |= {"Fbase": f"{version}'", "Fcond": f"{version}'"}
    if own:
        new |= {"Flocal": 0, "Fdoubt": 0, "Fatt": ""}
    for file in files:
        end_change(new, file)
    if bound(state, "b"):
        new[state["nb"] + "gone"] = "removed"
    new |= {"na": None, "nb": "F", "Fnm": "b"}
    return [("rename: ok", release(new, process, "ok"))]


def copy(state: State, process: str, on: Guards, files: tuple[str, ...], version: str | None) -> Steps:
    new = dict(state)
    if version is None:
        if state["Flocal"] and state["Fbase"] is None and not state["Fdoubt"]:
            return [("rename: a draft, no request", new | {process: "e"})]
        if "delete-copied" not in on and state["sb"]:
            new["sb"] = None  # "its replacement is not stored yet"
        for file in files:
            end_change(new, file)
        return [("rename: source is gone", release(new, process, "ENOENT"))]
    if state["sa"] != version:
        for file in files:
            end_change(new, file)
        return [("copy is refused: another version", new | {process: "l"})]
    new |= {"sb": f"{version}'", process: "d"}
    lost = [("copy, answer lost", new | {process: "cl", "lost": state["lost"] - 1})] if state["lost"] else []
    return [("copy", new), *lost]


def reader(state: State, process: str, on: Guards) -> Steps:
    new, at, place = dict(state), state[process], "s" + state["Fnm"]
    if at == "0":
        return read(state, process, on, state[place])
    if at == "b":
        if state["Fbusy"]:
            return []
        new |= {process: "a", process + "v": state[place], process + "q": state["Fseq"], "Ffol": None}
        return [(f"reader looks: {state[place]}", new)]
    if state["Ftok"]:
        return []
    version = state[process + "v"]
    new[process] = "0"
    changed = "dated" in on and (state["Fseq"] != state[process + "q"] or state["Fbusy"])
    if changed or state["Fgone"] or state["Fconf"] or version in (state["Fbase"], state["Fcond"]):
        new[process + "n"] = state[process + "n"] + 1
        if new[process + "n"] > ROUNDS_MAX:
            raise Bad("a reader asks the store again and again")
        return [("look dropped, or nothing new", new)]
    if origin(version) and origin(version) == state["Fatt"]:
        take(new, "F", version)
        return [("own commit found", new)]
    apply_foreign(new, "F", version, on)
    return [(f"look applied: {version}", new)]


def read(state: State, process: str, on: Guards, stored: str | None) -> Steps:
    new = dict(state)
    if state["Fgone"] == "removed" and "identity" in on:
        result = "ENOENT"
    elif state["Fgone"] == "replaced" or state["Fconf"]:
        result = "ConflictError"
    elif state["Fbase"] is None:
        result = "no stored bytes"
    else:
        if "identity" not in on and state["Fgone"] and stored:
            new["Fbase"] = stored  # the name is taken for the object
        if stored == new["Fbase"] or (state["Fgone"] and stored):
            if origin(stored) not in ("B", "F1"):
                raise Bad(f"a handle on F reads bytes of {stored}")
            result = f"bytes of {stored}"
        elif state["Fgone"]:
            result = "ENOENT"
        else:
            return [("fill: ESTALE", new | {"Ffol": None if "give-folio" in on else process, process: "b"})]
    return [(f"read: {result}", finish(new, process, result))]


def opener(state: State, process: str, on: Guards) -> Steps:
    new, at, file = dict(state), state[process], bound(state, "a")
    if at == "0":
        if state["ha"]:
            return []
        new |= {"ha": process, process: "k"}
        if file is None:
            new["ha"] = None
            finish(new, process, "ENOENT")
        return [("open(a) holds the name", new)]
    if file is None:
        return [("open: removed in between", finish(new | {"ha": None}, process, "ENOENT"))]
    if at == "k":
        new |= {process: "t", process + "v": state["sa"], process + "q": state[file + "seq"]}
        if state["sa"] == state[file + "cond"] or state[file + "busy"] or state[file + "doubt"]:
            new["ha"] = None
            finish(new, process, "as it is")
        return [(f"open looks: {state['sa']}", new)]
    if state[file + "tok"]:
        return []
    dated = "dated" not in on or state[file + "seq"] == state[process + "q"]
    if dated and not state[file + "busy"] and not state[file + "conf"]:
        apply_foreign(new, file, state[process + "v"], on)
    return [("open compares", finish(new | {"ha": None}, process, "looked"))]


def creator(state: State, process: str, on: Guards) -> Steps:
    if state[process] != "0" or state["Nnm"] != "b":
        return publish(state, process, on, "N")
    new = dict(state)
    if state["ha"]:
        return []
    if bound(state, "a") or state["sa"]:
        return [("create(a): EEXIST", finish(new, process, "EEXIST"))]
    return [("create(a): a new object N", new | {"na": "N", "Nnm": "a", "Nlocal": 1, "Nbase": None, "Ncond": None})]


def truncate(state: State, process: str, on: Guards) -> Steps:
    new = dict(state)
    if state[process] == "0":
        if state["Ftok"]:
            return []
        begin_change(new, "F")
        return [("truncate has the token", new | {"Ftok": process, process: "f"})]
    if state["Ffol"]:
        return []
    new["Ftok"] = None
    end_change(new, "F")
    return [("truncate: fills are over, ok", finish(new, process, "ok"))]


def other_program(state: State, process: str, on: Guards) -> Steps:
    new = state | {"sa": "X" if process == "X" else None, "foreign": 1}
    return [(f"another program {'replaces' if process == 'X' else 'removes'} a", finish(new, process, "done"))]


def network(state: State, process: str, on: Guards) -> Steps:
    """A request whose caller gave it up is carried out late."""
    if state["net"] is None:
        return []
    place, condition, version = state["net"]
    lands = state[place] == condition or (condition == "any" and state[place] is not None)
    return [("the late request lands", state | {"net": None} | ({place: version} if lands else {}))]


PROCESSES: dict[str, Process] = {
    "S": publish,
    "R": remove,
    "M": rename,
    "D": reader,
    "O": opener,
    "C": creator,
    "T": truncate,
    "X": other_program,
    "Y": other_program,
    "Z": network,
}


def whole_end(state: State) -> None:
    """Check a state in which all processes have ended."""

    def result(process: str) -> str:
        return str(state.get(process + "r", ""))

    if result("R") == "ok" and bound(state, "a") is None and state["sa"] not in (None, "X"):
        raise Bad(f"a removed object comes back: {state['sa']}")
    if result("S") == "ok" and not state["Fgone"] and not state["Fconf"] and not state["foreign"]:
        if origin(state["s" + state["Fnm"]]) != "F1":
            raise Bad("fsync succeeded, the bytes are not stored")
    if result("C") == "ok" and bound(state, "a") == "N" and not state["foreign"] and state["sa"] != "N1":
        raise Bad("the bytes of a new object are gone")
    if state["nb"] == "N" and state["sb"] != "N" and state["Nbase"] == "N":
        raise Bad("a failed rename destroyed the destination")
    if "R" not in state and not state["foreign"] and not state["Flocal"]:
        if {origin(state["sa"]), origin(state["sb"])}.isdisjoint({"B", "F1"}):
            raise Bad("the only copy is deleted")


# ------------------------------------------------------------------------------------------------ in place


def place_start(script: str) -> State:
    """Return the first state: sizes and version of the store and of F, count of direct writes, gate, token, object."""
    state: State = {"size": 1, "ver": 0, "Fsize": 1, "Fbase": 0, "seq": 0, "nd": 0, "gate": 0, "tok": None}
    state |= {"acked": 0, "ino": 1, "gen": 1}
    for process in script:
        state |= {process: "0", process + "v": None, process + "q": 0, process + "n": 0}
    return state


def direct_append(state: State, process: str, on: Guards) -> Steps:
    new, at, dates = dict(state), state[process], int("direct-dates" in on)
    if at == "0":
        if state["gate"]:
            return []
        new |= {"nd": state["nd"] + 1, process: "s", process + "v": state["Fsize"], "seq": state["seq"] + dates}
        return [("direct append is counted", new)]
    end = state[process + "v"] + 1
    if at == "s":
        new |= {"size": max(state["size"], end), "ver": state["ver"] + 1, process: "a"}
        return [("its bytes are stored", new)]
    if at == "a":
        if "counted-no-token" not in on and state["tok"]:
            return []
        return [("it is acknowledged", new | {"Fsize": max(state["Fsize"], end), "acked": end, process: "e"})]
    new |= {"nd": state["nd"] - 1, process: "end", "seq": state["seq"] + dates}
    if process == "L":  # it never ends; numbers are reused, so that there are finitely many states
        new |= {"L": "0", "seq": state["seq"] % 4, "ver": state["ver"] % 4, "size": 1, "Fsize": 1, "acked": 0}
    return [("it ends", new)]


def look(state: State, process: str, on: Guards) -> Steps:
    """An open that looks at the store, and applies what it found under the token with the gate closed."""
    new, at = dict(state), state[process]
    if at == "0":
        if state["ino"] == 2 and "found-identity" in on:
            return [("open: another object has the name", new | {process: "end"})]
        if state["gen"] == 2:
            if "generation" not in on and state["ver"] == state["Fbase"]:
                raise Bad("pages of the removed object are served for the new one")
            return [("open: another generation", new | {process: "end"})]
        seen = (7, 9) if state["ino"] == 2 else (state["size"], state["ver"])
        new |= {process: "t" if seen[1] != state["Fbase"] else "end", process + "v": seen, process + "q": state["seq"]}
        return [(f"open looks: {seen[0]} bytes, version {seen[1]}", new)]
    if at in "tT":
        if state["tok"]:
            return []
        new |= {"tok": process, "gate": int("gate" in on), process: "g" if at == "t" else "G"}
        return [("open has the token, gate closed", new)]
    if "gate" in on and state["nd"]:
        return []
    new |= {"tok": None, "gate": 0, process: "end"}
    if at == "G":
        return [("looked under the token: applied", new | {"Fsize": state["size"], "Fbase": state["ver"]})]
    if state["seq"] != state[process + "q"]:
        rounds = state[process + "n"] + 1
        if rounds > ROUNDS_MAX - 2:
            raise Bad("an open looks again and again")
        again = "T" if rounds == 2 and "look-by-token" in on else "0"
        return [("look dropped", new | {process: again, process + "n": rounds})]
    size, version = state[process + "v"]
    if (size, version) == (7, 9):
        raise Bad("F has the size of another object")
    return [(f"look applied: size {size}", new | {"Fsize": size, "Fbase": version})]


def discard(state: State, process: str, on: Guards) -> Steps:
    new, at = dict(state), state[process]
    if at == "0":
        if state["tok"]:
            return []
        return [("discard has the token, gate closed", new | {"tok": process, "gate": int("gate" in on), process: "r"})]
    if at == "r":
        if "gate" in on and state["nd"]:
            return []
        return [("discard reads the size", new | {process: "c", process + "v": state["Fsize"]})]
    size = state[process + "v"]
    new |= {"size": size, "ver": state["ver"] + 1, "seq": state["seq"] + 1, "tok": None, "gate": 0, process: "end"}
    return [(f"discard cuts to {size}", new)]


def other_in_place(state: State, process: str, on: Guards) -> Steps:
    new = state | {process: "end"}
    if process == "X":
        return [("another program appends", new | {"size": state["size"] + 5, "ver": state["ver"] + 10})]
    if process == "V":
        return [("another object gets the name", new | {"ino": 2})]
    return [("the inode number is used again", new | {"gen": 2})]


PROCESSES_IN_PLACE: dict[str, Process] = {
    "D": direct_append,
    "E": direct_append,
    "L": direct_append,
    "O": look,
    "P": look,
    "R": discard,
    "X": other_in_place,
    "V": other_in_place,
    "K": other_in_place,
}


def place_check(state: State) -> None:
    if state["acked"] > state["size"]:
        raise Bad("acknowledged bytes are cut off in the store")
    if state["acked"] > state["Fsize"]:
        raise Bad("the file is shorter than acknowledged bytes")


# ------------------------------------------------------------------------------------------------ the search


def search(first: State, processes: dict[str, Process], script: str, on: Guards) -> Found:
    """Visit all states, up to the first broken promise. `L` and `Z` of a script need not end."""
    fields = tuple(first)
    can_end: list[bool] = []

    def steps(at: Any) -> Iterator[tuple[str, Any]]:
        state = dict(zip(fields, at, strict=True))
        live = [process for process in script if state[process] != "end" and process not in "LZ"]
        can_end.append(not live)
        if processes is PROCESSES_IN_PLACE:
            place_check(state)
        elif not live:
            whole_end(state)
        moved = False
        for process in script:
            for label, new in processes[process](state, process, on) if state[process] != "end" else ():
                moved = True
                yield label, tuple(new[field] for field in fields)
        if live and not moved:
            raise Bad(f"deadlock: {', '.join(live)} wait")

    graph = Graph(tuple(first.values()), steps)
    if graph.found.broken:
        return graph.found
    back = graph.back()
    work = [number for number, can in enumerate(can_end) if can]
    while work:
        for before in back[work.pop()]:
            if not can_end[before]:
                can_end[before] = True
                work.append(before)
    return graph.found if all(can_end) else graph.broken("a caller never returns", can_end.index(False))


SCRIPTS = ("SRD", "SRDX", "SRDY", "SMD", "SMDX", "SMDY", "SMRD", "SRCD", "SDT", "SMO", "SMOX", "SOXD", "MRDX", "SRO")
SCRIPTS_IN_PLACE = ("DO", "DEO", "DOX", "DEOPX", "DR", "DERO", "OV", "DOV", "OK", "LO")


def whole(script: str, on: Guards, *, unborn: bool, lost: int) -> Found:
    return search(whole_start(script, unborn=unborn, lost=lost), PROCESSES, script, on)


def runs(on: Guards) -> Iterator[tuple[str, Callable[[], Found]]]:
    """Yield the name of each search and the search, small ones of both worlds first."""
    for script in SCRIPTS_IN_PLACE:
        yield f"in place: {script}", partial(search, place_start(script), PROCESSES_IN_PLACE, script, on)
    for script in SCRIPTS:
        for unborn in (False, True):
            for lost in range(3):
                name = f"whole objects: {script}, unborn {unborn}, answers lost {lost}"
                yield name, partial(whole, script, on, unborn=unborn, lost=lost)


LATE = {
    "a first put that is given up lands after the remove": ("SRZ", True, ALL, "a removed object comes back: F1"),
    "a put over a version does not": ("SRZ", False, ALL, ""),
    "a conditional delete does not land on a new object": ("SRCZ", False, ALL, ""),
    "an unconditional delete does": ("SRCZ", False, ALL | {"late-unconditional"}, "the bytes of a new object are gone"),
}
"""Limits with all guards: requests that land after their callers have given them up, with the broken promise."""


def late_requests(name: str) -> tuple[Found, str]:
    """Return the result of a search of `LATE`, and the expected broken promise."""
    script, unborn, on, expected = LATE[name]
    return whole(script, on, unborn=unborn, lost=1), expected
