# Keeps a PostgreSQL server: `keeper.sh PROGRAMS FOLDER OPTION...`. A line of its input is a command, which it answers with a line.
# It runs as the server's user, and at its input's end, which is that of the test's process, it ends the server and deletes the
# folder.
programs=$1 folder=$2
shift 2
# The libraries of npm's package are beside its programs.
export LD_LIBRARY_PATH=$programs/../lib:$LD_LIBRARY_PATH
server=

processes() { echo "$server" $(ps -o pid= --ppid "$server"); }

end() {
    [ -z "$server" ] || { kill -CONT $(processes); kill "-$1" "$server"; wait "$server"; } 2>/dev/null
    server=
}

start() {
    "$programs/postgres" -D "$folder/data" "$@" >>"$folder/log" 2>&1 &
    server=$!
    # Its last line says whether it takes connections.
    until grep -qs '^ready' "$folder/data/postmaster.pid"; do
        kill -0 "$server" 2>/dev/null || { cat "$folder/log" >&2; return 1; }
        sleep 0.02
    done
}

"$programs/initdb" -D "$folder/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >"$folder/log" 2>&1 || {
    cat "$folder/log" >&2
    exit 1
}
cat >"$folder/data/pg_hba.conf" <<END
host all guarded 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
END
start "$@" && echo done
while read -r command; do
    case $command in
    start) start "$@" ;;
    stop) end QUIT ;;
    pause) kill -STOP $(processes) ;;
    resume) kill -CONT $(processes) ;;
    esac
    echo done
done
end QUIT
rm -rf "$folder"
