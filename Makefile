# `make` lists the targets.  Each does all its own set-up (.ci/setup).

.PHONY: help setup compiled test demo demo-reload demo-linux bench judge litmus model examples contract states fuzz malformed canaries oracle coverage lint generate screen lock clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 13

setup:
	@.ci/setup

compiled: setup  ## compile the hot path if it has changed: half the time of an exit; MMIOD_PURE=1 runs Python

test: setup  ## run the tests; ARGS="-k uart" chooses
	@.venv/bin/python -m pytest $(ARGS)

demo: setup  ## boot stock firmware on Python devices and watch its traffic
	@.venv/bin/mmiod demo

demo-reload: setup  ## edit and reload a device while firmware runs on it
	@.venv/bin/mmiod demo-reload

demo-linux: setup  ## boot a stock Linux in a stock QEMU on Python devices; reload one
	@.venv/bin/mmiod demo-linux "$$(.ci/stock)"

bench: setup  ## measure what an exit costs, beside others; ARGS="--quick --only boot"
	@.venv/bin/python -m bench $(ARGS)

bench-check: setup  ## fail if a ratio of it is worse than bench/baseline.json
	@.venv/bin/python -m bench --check $(ARGS)

examples: setup  ## build the hypervisors in examples/
	$(CC) -std=c11 -O2 -Wall -Wextra -Werror -pedantic -Iinclude examples/kvm-vmm.c -o examples/kvm-vmm

malformed: setup  ## CASES (100000) malformed messages for PCI functions: nothing breaks, nothing leaks
	@.venv/bin/python -m tests.fuzz vfio_user --runs $(or $(CASES),100000) --seconds 7200

fuzz: setup  ## fuzz each target for SECONDS (60); ARGS="x86 codec" chooses
	@.venv/bin/python -m tests.fuzz --seconds $(or $(SECONDS),60) $(ARGS)

canaries: setup  ## plant bugs in copies of the tree: each must be caught by its test
	@.venv/bin/python -m tests.canaries $(ARGS)

judge: setup  ## compare devices with QEMU's; ACCESSES=100000 for each
	@.venv/bin/python -m tests.qemu.judge $(or $(ACCESSES),100000)

contract: setup  ## every device under ACCESSES (100000) hostile accesses; ARGS="hpet pit8254" chooses
	@.venv/bin/python -m tests.devices.contract $(or $(ACCESSES),100000) $(ARGS)

states: setup  ## write the saved states of now that tests/devices/states lacks; none is overwritten
	@.venv/bin/python -m tests.devices.states

litmus: setup  ## lose wake-ups without the barrier of shared memory, and none with it; ROUNDS=10000000
	@.venv/bin/python -m tests.attach.litmus $(or $(ROUNDS),10000000)

model: setup  ## check the model of the slots' handshake (docs/slots.pml) with spin
	@.venv/bin/python -m tests.attach.model

oracle: setup  ## compare all instructions with Unicorn and this CPU; CASES=1000 of each, SEED=1
	@.venv/bin/python -m tests.x86 --cases $(or $(CASES),100) $(if $(SEED),--seed $(SEED)) $(ARGS)

coverage: setup  ## count the instruction forms that are proven, by family
	@.venv/bin/python -m tests.x86 --coverage

lint: setup  ## the gates of CI: lint, format, types, imports
	@.ci/gates

generate: setup  ## make anew what is made from tables: C header, tables in docs/, guest
	.venv/bin/python -m mmiod.protocol.exit.header > include/mmiod_exit.h
	.venv/bin/python -m mmiod.protocol.exit.document docs/protocol.md
	.venv/bin/python -m tests.x86.document docs/instructions.md
	as --32 -o /tmp/tiny.o config/guests/tiny.S
	objcopy -O binary -j .text /tmp/tiny.o config/guests/tiny.bin
	rm /tmp/tiny.o

screen: setup  ## record docs/demo.svg and docs/demo-linux.svg, the pictures in the README
	COLUMNS=134 .venv/bin/mmiod demo | .venv/bin/python .ci/record.py docs/demo.svg "make demo"
	COLUMNS=134 .venv/bin/mmiod demo-linux "$$(.ci/stock)" | .venv/bin/python .ci/record.py docs/demo-linux.svg "make demo-linux"

lock:  ## choose versions anew: pyproject.toml -> requirements.lock
	@.ci/lock

clean:  ## remove what the other targets made
	rm -rf .fuzz .venv dist examples/kvm-vmm .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
