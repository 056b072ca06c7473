"""Upgrade: the daemon executes itself anew, and its clients do not notice.

Theory of operation.  New code and a new configuration of the same VMs come into service in
the same process (execve(2)), so neither a service manager nor a hypervisor sees anybody go:

1. *Trial*: a child is started with the daemon's own command line and the document that the
   next program would get.  It builds everything and sees whether all of it fits.  What is
   wrong is found out here; the daemon serves meanwhile, and says why there is no upgrade.
2. *Rest*: no message is begun, those that were are ended (at their deadline by all ones), and
   backends are left between two pieces or requests.
3. *Inheritance*: devices' states, connections with what they hold, guest memory, eventfds,
   backends' sockets and terminals become a document in a memfd and a table of descriptors.
   Nothing waits and nothing is closed; execve follows at once.
4. The next program builds everything as at any start, takes the inheritance over, and serves.

A failure up to execve ends the rest, and the daemon serves on.  Behind it a failure is a crash.

What does not go along: statistics, recorded accesses, earlier generations of plugins (their
files are read anew), programs that are backends (`process:`; they are started anew).  A VM
of the exit protocol has to be without hypervisor; that one can SAVE and RESTORE it.
"""
