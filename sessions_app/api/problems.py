"""The one error shape."""
from django.http import HttpResponse
class ProblemMiddleware:
    def __init__(self, get_response): self.get_response = get_response
    def __call__(self, request): return self.get_response(request)
def bad_request(request, exception=None): return HttpResponse(status=400)
def forbidden(request, exception=None): return HttpResponse(status=403)
def not_found(request, exception=None): return HttpResponse(status=404)
def server_error(request): return HttpResponse(status=500)
