# Debian's own dynamic programs. What differs from machine to machine (numbers, sizes) is filtered; the shell's reports of
# signals, which name processes, go nowhere.
exec 2>/dev/null
export LC_ALL=C TERM=linux SHELL=/bin/bash
cd /tmp || exit 1
say() { echo "--- $1"; }
number() { sed 's/[0-9][0-9]*/N/g' | tr -s ' '; }

say 'the dynamic linker'
ldd /bin/ls | sed 's/(0x[0-9a-f]*)/(ADDRESS)/'
LD_TRACE_LOADED_OBJECTS=1 /bin/true | grep -c '=>'
LD_PRELOAD=/none.so /bin/true 2>&1; echo $?
LD_BIND_NOW=1 /usr/bin/env printf '%s\n' bound
/lib/ld-linux-aarch64.so.1 /bin/echo called by the linker
/lib/ld-linux-aarch64.so.1 --verify /bin/busybox; echo $?

say 'bash'
declare -A map=([one]=1 [two]=2); echo "${map[two]} ${!map[*]}" | tr ' ' '\n' | sort | tr '\n' ' '; echo
[[ abc123 =~ ([a-z]+)([0-9]+) ]] && echo "${BASH_REMATCH[2]} ${BASH_REMATCH[1]}"
echo {a..e}{1..2}; echo $((2 ** 40 % 1000003)); printf '%(%Y)T\n' 0
mapfile -t lines < <(seq 3); echo "${#lines[@]} ${lines[-1]}"
diff <(echo left) <(echo right); cat <<< "a here-string"
coproc { read -r line; echo "got $line"; }; echo words >&"${COPROC[1]}"; read -r back <&"${COPROC[0]}"; echo "$back"; wait
( trap 'echo exit trap' EXIT; trap 'echo term trap' TERM; kill -TERM $BASHPID; echo after )
( set -e; false; echo not reached ); echo "status $?"
set -o pipefail; false | true; echo "pipefail $?"; set +o pipefail; true | false | true; echo "${PIPESTATUS[@]}"
sleep 0.1 & wait -n; echo "wait -n $?"
{ sleep 0.05; exit 7; } & wait $!; echo "wait $?"
bash -c 'kill -SEGV $$' 2>/dev/null; echo "segv $?"
bash -c 'exec -a other bash -c "echo \$0"' ; (exec 5>file; echo to five >&5); cat file; rm file
timeout 0.1 bash -c 'while :; do :; done'; echo "timeout $?"
read -r -t 0.05 x < <(sleep 1); echo "read -t $?"
bash-static -c 'echo static $((6 * 7))'; dash -c 'echo dash $((6 * 7))'

say 'job control without a terminal'
wait; jobs; set -m; sleep 0.5 & jobs | number; kill -STOP %sleep; sleep 0.1; jobs | number; kill -CONT %sleep; wait %sleep; echo "job $?"; set +m

say 'limits'
ulimit -Sn 50; ulimit -n; ulimit -Hn 60; ulimit -Hn; (ulimit -n 70) 2>&1 | sed 's/^.*ulimit/ulimit/'
(ulimit -f 1; dd if=/dev/zero of=big bs=1k count=5 2>/dev/null); echo "fsize $?"; stat -c %s big; rm big
(ulimit -t 1; while :; do :; done) 2>/dev/null; echo "cpu $?"
(ulimit -v 20000; exec dd if=/dev/zero of=/dev/null bs=100M count=1) 2>&1; echo "as $?"
prlimit --nofile=30:40 bash -c 'ulimit -n; ulimit -Hn'
prlimit --core=5 --pid $$; prlimit --core --noheadings -o SOFT --pid $$
setpriv --reuid 1000 --clear-groups bash -c 'ulimit -n; ulimit -Hn 60; ulimit -n 60 && ulimit -n; prlimit --nofile=61:61 true' 2>&1 | sed 's/^.*ulimit/ulimit/'
setpriv --reuid 1000 --clear-groups prlimit --nproc=0 dash -c '/bin/true; echo not reached' 2>&1

say 'identity'
setpriv --reuid=1000 --regid=1000 --clear-groups id
setpriv --no-new-privs --bounding-set=-all grep -E 'CapBnd|NoNewPrivs' /proc/self/status
setpriv --reuid=1000 --clear-groups --inh-caps=-all cat /etc/shadow; echo $?
setpriv --pdeathsig TERM sh -c 'setpriv --dump | grep death'
su user -c 'id -un; echo $USER'
runuser -u nobody -- id -u

say 'processes'
sleep 100 & pgrep -x sleep -c; ps -o comm=,stat=,ni= -p $!; renice -n 5 -p $! | number; ps -o ni= -p $!
pkill -STOP -x sleep; sleep 0.05; ps -o stat= -p $!; pkill -CONT -x sleep; pkill -x sleep; wait $!; echo "pkill $?"
sleep 100 & /bin/kill -s USR1 -q 5 $!; wait $!; echo "kill $?"
(sleep 100 & sleep 100 & pgrep -P $BASHPID -x sleep -c; pkill -P $BASHPID; wait)
ps -ejH | grep -c kthreadd; ps -eLf | head -n 1; ps -o pid=,ppid= -p 1 | tr -s ' '
bash -c 'ps -o args= -p $$' | number; ps -eo comm= | grep -x init
top -bn1 | sed -n '1p;2p;7p' | sed 's/^top.*load/top load/; s/[0-9][0-9]*/N/g' | tr -s ' '
free | awk '{ print NF }' | tr '\n' ' '; uptime | grep -c 'load average'; w | wc -l; vmstat | awk '{ print NF }' | tr '\n' ' '; echo
pidof init; pwdx $$ | number; pmap $$ | grep -c libc.so.6; fuser /bin/bash 2>&1 | grep -c bash
setsid -w bash -c '[[ $(ps -o sid= -p $$) -eq $$ ]] && echo a session'
nice -n 7 nice; chrt -p $$ | number; taskset -p $$ | number; choom -p $$ | tail -n 1 | number; nproc
flock lock echo locked; timeout -s KILL 0.1 sleep 5 2>/dev/null; echo "timeout $?"
stdbuf -oL echo buffered; mountpoint /proc; lscpu | grep -E '^(Architecture|CPU\(s\))' | tr -s ' '

say 'daemons'
start-stop-daemon --start --background --make-pidfile --pidfile d.pid --exec /bin/sleep -- 100
sleep 0.2; start-stop-daemon --status --pidfile d.pid; echo "status $?"
ps -o tty=,comm= -p "$(cat d.pid)"; [[ $(ps -o sid= -p "$(cat d.pid)") -eq $(cat d.pid) ]] && echo 'its own session'
start-stop-daemon --start --background --pidfile d.pid --exec /bin/sleep -- 100 | number
start-stop-daemon --stop --pidfile d.pid --retry 3; echo "stop $?"; start-stop-daemon --status --pidfile d.pid; echo "status $?"

say 'pseudo-terminals'
script -qc 'tty; stty size; test -t 0 && echo a terminal; ps -o tty= -p $$' /dev/null
script -qec 'exit 3' log; echo "script $?"
script -qc 'setsid -w bash -c "tty; : </dev/tty"' /dev/null 2>&1 | sed 's/^.*: line/line/'
script -qc 'setsid -cw tty' /dev/null
script -qc 'bash -ic "sleep 100 & jobs; kill %1; wait"' /dev/null 2>&1 | number
