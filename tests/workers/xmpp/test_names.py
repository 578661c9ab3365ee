import threading

from lxml import etree

from workers.xmpp.names import names_held, names_now


def test_every_name_that_a_parser_meets_counts_once():
    before = names_held()
    assert before is not None
    for _ in range(3):
        etree.fromstring("<a1-new a2-new='1' xmlns:a3-new='urn:a4-new'><a3-new:a1-new/></a1-new>")
    after = names_held()
    assert after == before + 4


def test_pull_parsers_fill_the_same_dictionary():
    before = names_held()
    assert before is not None
    for number in range(10):
        parser = etree.XMLPullParser(events=("end",))
        parser.feed(f"<pulled-{number}/>")
        parser.close()
    assert names_held() == before + 10


def test_texts_and_values_do_not_count():
    before = names_held()
    etree.fromstring("<stream stream='a long value that is no name'>a long text</stream>")
    assert names_held() == before


def test_each_thread_has_its_own():
    counts = []

    def other():
        counts.append(names_held())
        etree.fromstring("<only-there/>")
        counts.append(names_held())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert counts[1] == counts[0] + 1


def test_the_number_can_be_had_for_less():
    for number in range(10):
        assert names_now() == names_held()
        etree.fromstring(f"<had-for-less-{number}/>")
    assert names_now() == names_held()
