// Adds a request to the stream of a store, for producers without Celery.
// stream IMPORT_ID APP_ID; the store is REDIS_URL
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/gomodule/redigo/redis"
)

type request struct {
	ImportID               string `json:"importId"` // the same id is the same import
	AppID                  string `json:"appId"`
	BackendEnvironmentName string `json:"backendEnvironmentName"`
	UserPoolID             string `json:"userPoolId"`
	WebClientID            string `json:"webClientId"`
	NativeClientID         string `json:"nativeClientId"`
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: stream IMPORT_ID APP_ID")
	}
	entryID, err := add(os.Getenv("REDIS_URL"), request{
		ImportID:               os.Args[1],
		AppID:                  os.Args[2],
		BackendEnvironmentName: "prod",
		UserPoolID:             "eu-central-1_AbCdEf123",
		WebClientID:            "3n4b5urk1ft4fl3mg5e62d9ado",
		NativeClientID:         "6k1b2urk1ft4fl3mg5e62d9xyz",
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(entryID)
}

func add(url string, wanted request) (string, error) {
	text, err := json.Marshal(wanted)
	if err != nil {
		return "", err
	}
	conn, err := redis.DialURL(url)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return redis.String(conn.Do("XADD", "imports:requests", "*", "request", text))
}
