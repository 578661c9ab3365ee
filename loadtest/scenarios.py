"""What remote servers do to the endpoint under test. One locust user is one server, one domain.

Choose by name (`locust -f loadtest/locustfile.py Chat IqPing`), by `--mix 'Chat=8 IqPing=2'` or by
a preset. Rates are open-model: the next stanza does not wait for the answer to the last one.
"""

from loadtest.load.user import RemoteServer, at_random, every, task

# The addresses of the sink: `loadtest/sink/behaviour.py`.
ROOM, RELAY = "room", "relay"


class Chat(RemoteServer):
    """Messages to a user behind the endpoint, who answers each."""

    weight = 60
    wait_time = at_random("rate")

    @task
    def chat(self) -> None:
        self.send_messages("chat", self.echo)


class IqPing(RemoteServer):
    """Requests that must be answered exactly once (XEP-0199)."""

    weight = 10
    wait_time = at_random("rate")

    @task
    def ping(self) -> None:
        self.send_pings("iq ping", self.echo)


class PresenceFlood(RemoteServer):
    """Nothing for a while, then --flood presences in one moment, as when a server comes back."""

    weight = 5
    wait_time = at_random("rate", batch="flood")

    @task
    def flood(self) -> None:
        self.send_presences("presence", self.echo, count=self.options.flood)


class Room(RemoteServer):
    """MUC-like: what one member says goes out to --room-size members."""

    weight = 10
    wait_time = at_random("rate", batch="room_size")

    def on_start(self) -> None:
        super().on_start()
        self.room = self.user(self.own(f"{ROOM}-{self.number // self.options.room_size}"))
        self.join("room copy", self.room)

    @task
    def say(self) -> None:
        self.send_messages("room", self.room, count=1, type="groupchat")


class OneToMany(RemoteServer):
    """One speaks, all of this scenario listen: a channel, or a newsletter."""

    weight = 3
    wait_time = at_random("rate")

    def on_start(self) -> None:
        super().on_start()
        self.channel = self.user(self.own(f"{ROOM}-channel"))
        self.join("channel copy", self.channel)

    @task
    def publish(self) -> None:
        if self.number == 0:
            self.send_messages("channel", self.channel, count=1, type="groupchat")


class ManyToOne(RemoteServer):
    """Local users, one for each of these servers, all write to the first of them."""

    weight = 3
    wait_time = at_random("rate")

    @task
    def write(self) -> None:
        self.send_messages("many to one", f"{self.user(RELAY)}/{self.first.name}")


class BigStanzas(RemoteServer):
    """Messages of --big-size bytes between everybody else's small ones."""

    weight = 1
    wait_time = at_random("rate", per=20)

    @task
    def send(self) -> None:
        self.send_messages("big", self.echo, count=1, size=self.options.big_size)


class SlowReader(RemoteServer):
    """Reads only a share of the time; nobody else may notice."""

    weight = 1
    wait_time = at_random("rate")

    def on_start(self) -> None:
        super().on_start()
        self.read_slowly("chat, slow reader")

    @task
    def chat(self) -> None:
        self.send_messages("chat, slow reader", self.echo)


class Churn(RemoteServer):
    """Closes its session in order every few seconds, and opens another."""

    weight = 3
    wait_time = at_random("rate")

    @task
    def chat(self) -> None:
        self.send_messages("chat, churning", self.echo)
        if self.is_due("churn_every"):
            self.reconnect()


class Hostile(RemoteServer):
    """One attack after the other; each must be refused, and nobody else may notice."""

    weight = 2
    wait_time = at_random("rate", per=5)

    @task
    def attack(self) -> None:
        self.attack_at_random()


class ReconnectStorm(RemoteServer):
    """All sessions of this process are cut in one moment, every --storm-every seconds."""

    fixed_count = 1
    wait_time = every("storm_every")

    @task
    def cut(self) -> None:
        self.cut_all_sessions()


class KillWorkers(RemoteServer):
    """Chaos: KILL for a worker of the gateway (--admin), every --kill-every seconds."""

    fixed_count = 1
    wait_time = every("kill_every")

    @task
    def kill(self) -> None:
        self.kill_a_worker()
