"""`make bench`: what an exit costs, and where; the single place for figures.

C programs that do nothing but exit talk to a real `mmiod serve`, to C servers that do nothing, and to
those of others.  All are asked in turn, round by round, so that whatever else the computer does
meets all of them alike.  A figure is the median over the rounds, a ratio the median of what each
round gives; absolute figures of two runs do not compare.  docs/performance.md tells what the
subjects are.

    contest.py figures.py    rounds, medians, ratios
    programs.py placement.py *.c    what runs, and on which CPU
    floors.py peers.py exits.py    who is asked; round_trips.py asks them
    scale.py idle.py reload.py blk.py in_process.py boot/    the other subjects
    report.py check.py plots.py    tables, the baseline, pictures
"""
