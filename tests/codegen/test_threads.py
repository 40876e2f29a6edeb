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
