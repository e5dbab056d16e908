"""The style sheet of a report's page: colours of light and dark, bars, heat."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --back: #ffffff; --card: #f6f7f9; --ink: #1d2129; --soft: #5b6472; --line: #d9dde4;
  --ok: #1a7f45; --bad: #c0262d; --heat: 37, 99, 180;
  --write: #2f6fd0; --read: #8a929e; --save: #1f9d6b; --cut: #c77a12; --other: #b9bfc9; --crash: #7a2ea0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #14171c; --card: #1c2027; --ink: #e4e7ec; --soft: #9aa4b2; --line: #323843;
    --ok: #3fb56f; --bad: #f0616a; --heat: 90, 150, 235;
    --write: #5b95ef; --read: #7d8794; --save: #37b985; --cut: #dd9a3c; --other: #4b5361; --crash: #b77ad6;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 16px; }
header { border-left: 6px solid var(--ok); background: var(--card); padding: 12px 16px; border-radius: 6px; }
header.bad { border-color: var(--bad); }
header p { margin: 0; color: var(--soft); }
header h1 { margin: 0 0 8px; font-size: 26px; color: var(--ok); }
header.bad h1 { color: var(--bad); }
dl { display: flex; flex-wrap: wrap; gap: 4px 24px; margin: 0; }
dt { color: var(--soft); font-size: 12px; }
dd { margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 28px 0 8px; }
h3 { font-size: 14px; font-weight: 600; margin: 16px 0 6px; }
pre, code, .hex { font: 12.5px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 10px; margin: 6px 0;
  overflow-x: auto; }
pre.story { white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: 6px 0; }
summary { cursor: pointer; color: var(--soft); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; }
.hex { margin-bottom: 12px; }
.hex th, .hex td { padding: 1px 12px 1px 0; text-align: left; white-space: nowrap; font-weight: normal; }
.hex thead td, .hex th { color: var(--soft); }
mark { background: var(--bad); color: #fff; border-radius: 2px; padding: 0 1px; }
.plain td { padding: 2px 16px 2px 0; border-bottom: 1px solid var(--line); }
.plain td + td { text-align: right; }
.lanes { padding: 4px 0 44px; }
.lane { display: flex; align-items: center; height: 26px; border-bottom: 1px solid var(--line); }
.who { flex: 0 0 84px; font-size: 12px; color: var(--soft); position: sticky; left: 0; background: var(--back);
  z-index: 2; line-height: 25px; }
.track { position: relative; flex: 1; height: 100%; margin-right: 16px; }
.bar { position: absolute; top: 5px; height: 15px; min-width: 7px; border-radius: 3px; background: var(--other);
  outline-offset: 1px; }
.bar.write { background: var(--write); } .bar.read { background: var(--read); } .bar.save { background: var(--save); }
.bar.cut { background: var(--cut); } .bar.crash { background: var(--crash); }
.bar.marked { outline: 3px solid var(--bad); }
.bar.failed { background-image: repeating-linear-gradient(45deg, transparent 0 4px, var(--back) 4px 6px); }
.bar span { display: none; position: absolute; top: 20px; left: 0; z-index: 3; background: var(--ink);
  color: var(--back); font: 12px/1.4 system-ui, sans-serif; padding: 4px 8px; border-radius: 4px; width: max-content;
  max-width: 300px; }
.bar.right span { left: auto; right: 0; }
.bar:hover span, .bar:focus span { display: block; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 12px; color: var(--soft); margin: 4px 0; }
.legend i.bar { position: static; display: inline-block; width: 16px; height: 11px; margin-right: 6px; }
.heat { font-size: 11px; }
.heat th { font-weight: normal; text-align: right; padding: 0 6px; color: var(--soft); white-space: nowrap; }
.heat tbody th { position: sticky; left: 0; background: var(--back); }
.heat thead th { vertical-align: bottom; padding: 4px 0; text-align: left; height: 74px; }
.heat thead span { writing-mode: vertical-rl; transform: rotate(180deg); }
.heat td { width: 26px; min-width: 26px; height: 22px; text-align: center; border: 1px solid var(--line); }
.heat td.warm { background: rgba(var(--heat), calc(0.15 + 0.6 * var(--h))); }
.wait { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px; margin: 8px 0;
  overflow-wrap: anywhere; }
.wait ol { margin: 4px 0; padding-left: 20px; } .wait p { margin: 4px 0; color: var(--soft); }
@media (max-width: 600px) {
  main { padding: 10px; } body { font-size: 14px; } .who { flex-basis: 68px; } pre, code, .hex { font-size: 11.5px; }
}
"""
