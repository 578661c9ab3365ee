from workers.gateway.pace import Pace


class Recorder:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def pause(self) -> None:
        self.heard.append("pause")

    def resume(self) -> None:
        self.heard.append("resume")


def test_a_source_is_held_once_and_released_once() -> None:
    pace, source = Pace(), Recorder()
    pace.hold(source)
    pace.hold(source)
    assert pace.held
    pace.release()
    pace.release()
    assert not pace.held
    assert source.heard == ["pause", "resume"]


def test_a_source_that_fills_the_hop_while_it_resumes_stays_held() -> None:
    pace = Pace()

    class Eager(Recorder):
        def resume(self) -> None:
            super().resume()
            if len(self.heard) < 3:
                pace.hold(self)

    source = Eager()
    pace.hold(source)
    pace.release()
    assert pace.held
    assert source.heard == ["pause", "resume", "pause"]
