/*
 * The handshake of docs/protocol.md, "Shared memory", for spin: one vCPU's slot, its ring, both sleep
 * flags, the kick and the wake-up.  `make model` finds no run in which somebody sleeps for ever, and
 * with -DNO_BARRIER it does.
 * No run goes round for ever either (-DNP), so every exit is answered and every posted write taken.
 *
 * x86-64 (total store order): stores pass through a buffer of each side, in order; a side sees its own
 * at once (`??`) and a barrier waits until its buffer is empty.  Kick and wake-up are stores of the
 * kernel behind those.  Sleeping is to block; looking for a while before is any choice in an `if`.
 */
#ifdef NO_BARRIER
#define barrier(stores) skip
#else
#define barrier(stores) empty(stores)
#endif
#define ROUNDS 2
mtype = { STATE, POSTED, BELL, CLIENT_SLEEPS, APPLIED, DAEMON_SLEEPS, KICK, WAKE };
#define READY 1
#define COMPLETE 2 /* 0 is free */
byte word[9];
chan client = [6] of { mtype, byte };
chan daemon = [6] of { mtype, byte };
byte due, done; /* what must be: writes posted before the exit, and exits executed */

active proctype Stores()
{
	mtype to; byte value;
end:	do
	:: atomic { client?to,value -> word[to] = value }
	:: atomic { daemon?to,value -> word[to] = value }
	od
}

#define answered (word[STATE] == COMPLETE && !client??[STATE, READY])
inline ring() { bell++; client!BELL,bell; barrier(client); if :: word[DAEMON_SLEEPS] -> client!KICK,1 :: else fi }
inline post() { posted++; client!POSTED,posted; ring() }
active proctype Client()
{
	byte bell, posted, round;
	do
	:: round < ROUNDS ->
		round++;
		if :: post() :: skip fi;
		due = posted; client!STATE,READY; ring();
		do
		:: answered -> break
		:: else ->
			client!CLIENT_SLEEPS,1; barrier(client);
			if :: !answered -> atomic { word[WAKE] -> word[WAKE] = 0 } :: else fi;
			client!CLIENT_SLEEPS,0
		od;
		assert(done == round); client!STATE,0
	:: else -> break
	od;
	post(); word[APPLIED] == posted /* it has to come, though nobody asks again */
}

#define asked (word[STATE] == READY && !daemon??[STATE, COMPLETE])
inline sure() { barrier(daemon); if :: unsure && word[CLIENT_SLEEPS] -> daemon!WAKE,1 :: else fi; unsure = false }
active proctype Daemon()
{
	byte heard, taken; bool unsure, ready;
	do
	:: word[KICK] -> word[KICK] = 0 /* it is awake: nothing */
	:: atomic { word[BELL] != heard -> heard = word[BELL] };
		ready = asked; taken = word[POSTED]; daemon!APPLIED,taken;
		if
		:: ready ->
			assert(taken == due); done++; daemon!STATE,COMPLETE;
			if :: word[CLIENT_SLEEPS] -> daemon!WAKE,1 :: else -> unsure = true fi
		:: else
		fi
	:: word[BELL] == heard ->
		if :: unsure -> sure() :: skip fi;
		daemon!DAEMON_SLEEPS,1; sure();
		if :: word[BELL] == heard -> end_parked: atomic { word[KICK] -> word[KICK] = 0 } :: else fi;
		daemon!DAEMON_SLEEPS,0
	od
}
