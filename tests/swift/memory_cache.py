"""A cache in this process, in place of memcached: Swift's tempauth keeps its tokens in it."""


class Memory:
    def __init__(self):
        self.known = {}

    def get(self, key, **_):
        return self.known.get(key)

    def set(self, key, value, **_):
        self.known[key] = value

    def delete(self, key, **_):
        self.known.pop(key, None)

    def incr(self, key, delta=1, **_):
        self.known[key] = max(0, self.known.get(key, 0) + delta)
        return self.known[key]

    def decr(self, key, delta=1, **_):
        return self.incr(key, -delta)


def filter_factory(_, **__):
    memory = Memory()

    def with_memory(application):
        def serve(environ, start_response):
            environ["swift.cache"] = memory
            return application(environ, start_response)

        return serve

    return with_memory
