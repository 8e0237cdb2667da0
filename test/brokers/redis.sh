# redis.sh - Redis (Debian redis-server 7.0): streams, for the tests of connectors/cloud.
#
# Users: admin everything; app the keys that begin with app. Every write is synced.

R_PORT=${LS_REDIS_PORT:-$(port 150)}

redis_install() { apt_need redis-server redis-tools; }

redis_start() {
  local d c
  node_pid redis >/dev/null && return 0
  need_free "$R_PORT" || return 1
  d=$(data_dir redis); c=$LS_HOME/conf/redis; mkdir -p "$c"
  cat >"$c/redis.conf" <<EOF
bind $LS_HOST
port $R_PORT
dir $d
appendonly yes
appendfsync always
user default off
user $LS_ADMIN_USER on >$LS_ADMIN_PASS ~* &* +@all
user $LS_APP_USER on >$LS_APP_PASS ~app.* &app.* +@all
EOF
  chmod 600 "$c/redis.conf"
  start_node redis "$(command -v redis-server)" "$c/redis.conf"
}

# Ready means: the app user can write.
redis_ready() {
  all_open "$R_PORT" &&
    REDISCLI_AUTH=$LS_APP_PASS timeout 5 redis-cli -h "$LS_HOST" -p "$R_PORT" --user "$LS_APP_USER" set app.ready 1 2>/dev/null | grep -q OK
}

redis_env() {
  cat <<EOF
LS_REDIS_ADDR=$LS_HOST:$R_PORT
LS_REDIS_USER=$LS_APP_USER
LS_REDIS_PASS=$LS_APP_PASS
EOF
}
