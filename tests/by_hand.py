"""An outbox whose messages a test takes and sends itself."""

from collections.abc import Mapping

from rowcast.tables.outbox import Came, Free, Outbox
from rowcast.tasks.records import Delivery


class OutboxByHand(Outbox):
    def claim(self, room: int, few: int, under_way: Mapping[str, int]) -> list[Delivery]:
        """Take what is due, `room` at most, and over each lane `few` at once; `under_way` says how many are."""
        return self.turn((), Free(room, few, under_way))[0]

    def came(self, *what: object) -> None:
        self.turn([Came(*what)], Free(0, 0))

    def deliver(self, delivery: Delivery, code: int | None) -> None:
        self.came(delivery, "delivered", code)

    def give_up(self, delivery: Delivery, code: int | None, error: str) -> None:
        self.came(delivery, "failed", code, error)

    def put_off(
        self, delivery: Delivery, code: int | None, error: str, due_at: float, others_at: float = 0.0
    ) -> None:
        """It is tried again then; other messages for this receiver not before `others_at`."""
        self.came(delivery, "queued", code, error, due_at, others_at)
