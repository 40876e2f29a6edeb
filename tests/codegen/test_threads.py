import threading

from sparsecc.codegen import threads, tvm_api


def test_each_caller_sets_its_own_pool():
    seen = []

    def work(count):
        threads.use_threads(count)
        seen.append(tvm_api.get_global_func("runtime.NumThreads")())

    for count in (1, threads.available()):
        caller = threading.Thread(target=work, args=(count,))
        caller.start()
        caller.join()
    assert seen == [1, threads.available()]


def test_cores():
    assert 1 <= threads.physical_cores() <= threads.available()


def test_short_threads_share_a_few_pools():
    ran_in, failures = [], []

    def work():
        ran_in.append(threading.current_thread())
        return len(ran_in)

    def call(number):
        if threads.run(2, work) != number:
            failures.append(number)

    for number in range(1, 61):
        caller = threading.Thread(target=call, args=(number,))
        caller.start()
        caller.join()
    assert not failures
    assert len({*ran_in}) <= threads._OWNERS + threads.available()


def test_one_thread_needs_no_pool_and_main_has_its_own():
    ran_in = []
    callers = [threading.Thread(target=lambda: threads.run(1, lambda: ran_in.append(threading.current_thread()))) for _ in range(20)]
    for caller in callers:
        caller.start()
        caller.join()
    assert ran_in == callers
    assert threads.run(2, threading.current_thread) is threading.current_thread()


def test_callers_share_the_cpus():
    cpus, running, most = threads._Cpus(3), [], []

    def call(count):
        for _ in range(20):
            with cpus.taken(count):
                running.append(count)
                most.append(sum(running))
                running.remove(count)

    callers = [threading.Thread(target=call, args=(count,)) for count in (1, 2, 2, 3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert len(most) == 80
    assert max(most) <= 3


def test_a_caller_may_want_more_cpus_than_there_are():
    with threads._Cpus(2).taken(64):
        pass
